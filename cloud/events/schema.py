"""Adapter: the steps of migrations that make the tables of events. Each service's migration lists them."""

from piccolo.columns import BigInt, BigSerial, Bytea, Timestamptz, Varchar

from cloud.storage.schema import Step, add_index, add_table

EVENTS: tuple[Step, ...] = (
    add_table(
        "event_outbox",
        number=BigSerial(primary_key=True),
        position=BigInt(null=True, default=None),
        id=Varchar(length=64),
        type=Varchar(length=128),
        subject=Varchar(length=128),
        sequence=BigInt(),
        time=Timestamptz(default=None),
        tenant=Varchar(length=64),
        traceparent=Varchar(length=64),
        data=Bytea(),
    ),
    add_index("event_outbox", "position", "number"),
    add_index("event_outbox", "subject", "sequence"),
    add_table("event_object", subject=Varchar(length=128, primary_key=True), sequence=BigInt()),
    add_table("event_state", name=Varchar(length=16, primary_key=True), epoch=BigInt(), purged=BigInt()),
    add_table(
        "event_cursor",
        producer=Varchar(length=32, primary_key=True),
        cursor=Varchar(length=128),
        epoch=BigInt(),
        position=BigInt(),
    ),
    add_table("event_applied", key=Varchar(length=192, primary_key=True), epoch=BigInt(), sequence=BigInt()),
)
"""The tables of the first version. A change of a table is a further tuple, for a further migration of each service."""
COPY: tuple[Step, ...] = (
    add_table(
        "event_copy",
        name=Varchar(length=16, primary_key=True),
        owner=Varchar(length=64),
        held_until=Timestamptz(default=None),
        stream=Varchar(length=64),
        position=BigInt(),
        replay=BigInt(),
        replay_next=BigInt(),
        replay_last=BigInt(),
    ),
)
"""The table of the copy to NATS."""
