"""Migration: the table of the copy of events to NATS, and the consumers of tenants."""

from piccolo.columns import Timestamptz, Varchar

from cloud.events.schema import COPY
from cloud.storage.schema import add_index, add_table

STEPS = (
    *COPY,
    add_table(
        "event_consumer",
        id=Varchar(length=64, primary_key=True),
        tenant=Varchar(length=64),
        name=Varchar(length=256),
        public_key=Varchar(length=64),
        created_at=Timestamptz(default=None),
        expires_at=Timestamptz(default=None),
        revoked_at=Timestamptz(null=True, default=None),
    ),
    add_index("event_consumer", "tenant", "id"),
)
