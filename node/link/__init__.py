"""The connection to the cloud: TLS, HTTP calls, checks of issued certificates."""
