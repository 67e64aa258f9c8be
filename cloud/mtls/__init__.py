"""Mutual TLS between services: peer, server, client, own certificate and its renewal, revoked set."""
