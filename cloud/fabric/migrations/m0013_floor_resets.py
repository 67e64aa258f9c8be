"""Migration: adds the time at which a node's floor counter was last below its earlier value, or another one."""

from piccolo.columns import Timestamptz

from cloud.storage.schema import add_column

STEPS = (add_column("node", floor_reset_at=Timestamptz(null=True, default=None)),)
