"""Values: the tables of events, in the database of each service. Only the stores read and write them."""

from piccolo.columns import BigInt, BigSerial, Bytea, Timestamptz, Varchar
from piccolo.table import Table

from cloud.storage import UNBOUND

INDEXES = (("event_outbox", "position", "number"), ("event_outbox", "subject", "sequence"))
"""Indexes over several columns, which Piccolo's columns cannot say: the table, then the columns."""


class EventOutbox(Table, db=UNBOUND, tablename="event_outbox"):
    """An event of this service. `number` rises with each insert; a rolled back insert leaves a gap on PostgreSQL.

    `position` is the place in the feed, without gaps. It is empty until the sequencer has given it. `data` is JSON.
    """

    number = BigSerial(primary_key=True)
    position = BigInt(null=True, default=None)
    id = Varchar(length=64)
    type = Varchar(length=128)
    subject = Varchar(length=128)
    sequence = BigInt()
    time = Timestamptz(default=None)
    tenant = Varchar(length=64)
    traceparent = Varchar(length=64)
    data = Bytea()


class EventObject(Table, db=UNBOUND, tablename="event_object"):
    """An object that has events. `sequence` is the number of its latest event. The row's lock orders its events."""

    subject = Varchar(length=128, primary_key=True)
    sequence = BigInt()


class EventState(Table, db=UNBOUND, tablename="event_state"):
    """The state of the outbox, one row `outbox`. `purged` is the position up to which old events may be missing."""

    name = Varchar(length=16, primary_key=True)
    epoch = BigInt()
    purged = BigInt()


class EventCursor(Table, db=UNBOUND, tablename="event_cursor"):
    """How far this service has followed the events of a producer. `cursor` is the producer's text."""

    producer = Varchar(length=32, primary_key=True)
    cursor = Varchar(length=128)
    epoch = BigInt()
    position = BigInt()


class EventApplied(Table, db=UNBOUND, tablename="event_applied"):
    """The newest event of a producer's object that this service has applied. `key` is `PRODUCER/SUBJECT`."""

    key = Varchar(length=192, primary_key=True)
    epoch = BigInt()
    sequence = BigInt()


class EventCopy(Table, db=UNBOUND, tablename="event_copy"):
    """How far the events are copied to NATS, one row `jetstream`.

    `owner` is the process that copies until `held_until`. `stream` is when the stream was made, so that a new stream
    gets all events again. Positions from `replay_next` to `replay_last` are copied once more; `replay` counts these
    orders. 0 means none.
    """

    name = Varchar(length=16, primary_key=True)
    owner = Varchar(length=64)
    held_until = Timestamptz(default=None)
    stream = Varchar(length=64)
    position = BigInt()
    replay = BigInt()
    replay_next = BigInt()
    replay_last = BigInt()
