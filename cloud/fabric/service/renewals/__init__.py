"""Use cases: a node renews its device certificate with fresh evidence, and which machine of a node it is."""
