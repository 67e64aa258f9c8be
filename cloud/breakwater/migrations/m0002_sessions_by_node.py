"""Migration: adds an index of certificates by node and time, for the limit of sessions by node."""

from cloud.storage.schema import add_index

STEPS = (add_index("certificate", "node", "recorded_at"),)
