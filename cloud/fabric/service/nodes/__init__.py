"""Use cases of nodes: confirm, open sessions, fetch statements, renew; end what was left unfinished."""
