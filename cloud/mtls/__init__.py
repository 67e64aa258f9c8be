"""Mutual TLS between services: peer, server, client, a service's own certificate and its renewal, the revoked set."""
