"""Use cases of nodes: activate, confirm, open sessions, fetch statements, renew; end what was left unfinished."""
