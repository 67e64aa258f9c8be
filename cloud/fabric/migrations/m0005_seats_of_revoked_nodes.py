"""Migration: adds an index of nodes by standing and seat, for the seats of revoked nodes."""

from cloud.storage.schema import add_index

STEPS = (add_index("node", "standing", "seat_held", "id"),)
