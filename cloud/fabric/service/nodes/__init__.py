"""Use cases of nodes: confirm, open sessions, fetch statements; end what was left unfinished."""
