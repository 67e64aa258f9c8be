"""The exchanges with the cloud: activate, confirm, open a session, refresh, renew. Each ends with the stored result."""
