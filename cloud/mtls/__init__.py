"""Mutual TLS between services: the peer, server and client contexts, the own certificate and its renewal, the revoked set."""
