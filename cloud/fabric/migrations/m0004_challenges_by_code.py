"""Migration: adds an index of activations by code and time, for the limit of challenges by code."""

from cloud.storage.schema import add_index

STEPS = (add_index("activation", "code", "created_at"),)
