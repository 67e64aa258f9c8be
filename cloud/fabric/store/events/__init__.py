"""Stores: the events of Fabric: bodies of rows, events of changes, and rows without an event."""
