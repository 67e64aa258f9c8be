"""Migration: when a superseded generation of a node asked last, and which one."""

from piccolo.columns import Integer, Timestamptz

from cloud.storage.schema import add_column

STEPS = (
    add_column("node", superseded_asked_at=Timestamptz(null=True, default=None)),
    add_column("node", superseded_asked_generation=Integer(default=0)),
)
