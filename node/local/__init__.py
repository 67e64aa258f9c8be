"""The local socket: server, documents, routes, client."""
