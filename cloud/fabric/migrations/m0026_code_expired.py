"""Migration: adds whether an activation code is stored as expired, and the index that finds those that are due."""

from piccolo.columns import Boolean

from cloud.storage.schema import add_column, add_index

STEPS = (add_column("code", expired=Boolean(default=False)), add_index("code", "expired", "expires_at"))
