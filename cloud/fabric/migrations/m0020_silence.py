"""Migration: adds the time until which a node must be silent before another machine gets its grace lease."""

from piccolo.columns import Timestamptz

from cloud.storage.schema import add_column

STEPS = (
    add_column("recovery_case", silent_until=Timestamptz(null=True, default=None)),
    add_column("node", silent_until=Timestamptz(null=True, default=None)),
)
