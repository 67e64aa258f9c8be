"""Stores: the queries of events, one class a subject, over the engine of a service."""
