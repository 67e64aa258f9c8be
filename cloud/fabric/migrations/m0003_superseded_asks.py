"""Migration: adds to `node` the last superseded generation that asked, and the time at which it asked."""

from piccolo.columns import Integer, Timestamptz

from cloud.storage.schema import add_column

STEPS = (
    add_column("node", superseded_asked_at=Timestamptz(null=True, default=None)),
    add_column("node", superseded_asked_generation=Integer(default=0)),
)
