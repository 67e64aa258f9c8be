"""The wire: TLS, HTTP calls, checks of issued certificates."""
