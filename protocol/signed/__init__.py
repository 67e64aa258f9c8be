"""Signed documents: the JWS envelope and each signed type."""
