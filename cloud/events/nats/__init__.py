"""Adapter: NATS: rings between processes, and a copy of the public events for the consumers of tenants.

No service acts on what NATS says. Without NATS, and while NATS fails, everything else works.
"""
