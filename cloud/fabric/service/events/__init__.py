"""Use cases of Fabric's events: events that no request causes, and what operators see of events."""
