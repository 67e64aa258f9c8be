"""Migration: whether a node's agent runs in development mode."""

from piccolo.columns import Boolean

from cloud.storage.schema import add_column

STEPS = (add_column("node", development=Boolean(default=False)),)
