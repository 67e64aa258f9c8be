"""Messages: events, the facts that services report to each other: paths of the routes, envelope of an event, answers.

An event has the attributes of a CloudEvent (https://github.com/cloudevents/spec, version 1.0.2). Its type is
`dev.cascade.SERVICE.NOUN.PAST.vN` and its subject `NOUN/OBJECT_ID`. `data` is the whole public state of the object after
the change, never a secret. So an event replaces all earlier events of its object. docs/events.md has the rules.

Evolution: a field is added at the end with a default. The text below a field is its description in the API document.
"""

import re
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from protocol.bounds import limits
from protocol.ids import EventId

PATH_CHANGES = "/v1/changes"
PATH_SNAPSHOT = "/v1/snapshot"

TYPE_PREFIX = "dev.cascade"
DATA_BYTES_MAX = 48 * 1024
"""Bytes of `data`. The states of objects have less than 2 kB. The largest are a tenant with 64 profiles of the longest
names, 36 kB, and a code with the longest entitlements, 23 kB."""
SUBJECT_CHARS_MAX = 128
NUMBER_MAX = 2**63 - 1
"""Largest position, sequence and epoch: a signed number of 64 bits."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""A noun or a verb in the past tense."""
OBJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""The id of an object: letters that a subject of NATS takes."""

Number = Annotated[int, limits(minimum=0, maximum=NUMBER_MAX)]


class EventType(NamedTuple):
    """The parts of a type."""

    service: str
    noun: str
    past: str
    version: int

    def __str__(self) -> str:
        return f"{TYPE_PREFIX}.{self.service}.{self.noun}.{self.past}.v{self.version}"


_TYPE = re.compile(
    rf"{re.escape(TYPE_PREFIX)}\.([a-z]{{1,16}})\.([a-z][a-z0-9_]{{0,31}})\.([a-z][a-z0-9_]{{0,31}})\.v([1-9][0-9]{{0,2}})"
)


def parse_type(text: str) -> EventType | None:
    """Return the parts of a type; None for a text of another form."""
    found = _TYPE.fullmatch(text)
    return None if found is None else EventType(found[1], found[2], found[3], int(found[4]))


def subject_of(noun: str, object_id: str) -> str:
    """Return the subject of an object. Raises ValueError for a noun or an id of another form."""
    if not NAME.fullmatch(noun) or not OBJECT_ID.fullmatch(object_id):
        raise ValueError("a subject is a noun in small letters, and an id of letters, digits, _ and -")
    return f"{noun}/{object_id}"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event: what happened to an object, and the state of the object after it."""

    id: EventId
    """Id of the event."""
    type: Annotated[str, limits(maxLength=128)]
    """`dev.cascade.SERVICE.NOUN.PAST.vN`. The version rises only if a consumer of the older version could go wrong."""
    source: Annotated[str, limits(maxLength=32)]
    """`/SERVICE`, the service that owns the object."""
    subject: Annotated[str, limits(maxLength=SUBJECT_CHARS_MAX)]
    """`NOUN/OBJECT_ID`, the object."""
    time: datetime
    """Time of the change."""
    tenant: Annotated[str, limits(maxLength=64)]
    """Id of the tenant to which the object belongs. Empty for an event that only services get."""
    epoch: Number
    """Epoch of the producer. It rises when its database is restored from a backup."""
    sequence: Number
    """Number of the event among the events of its object, from 1. `epoch` and `sequence` together only rise."""
    position: Number
    """Position in the feed, from 1, without gaps. 0 in a snapshot."""
    traceparent: Annotated[str, limits(maxLength=64)]
    """Trace context (W3C) of the request that caused the change. Empty without one."""
    data: Annotated[msgspec.Raw, limits(type="object")]
    """State of the object, at most 48 kB of JSON. `type` names its form."""


class Changes(msgspec.Struct, frozen=True):
    """Events after a cursor, in the order of their positions."""

    epoch: int
    """Epoch of the producer."""
    events: tuple[Event, ...]
    """The next events. Empty if there are none."""
    cursor: str
    """Cursor for the next request: the position of the last event of this answer."""
    head: int
    """Highest position of the feed."""


class SnapshotPage(msgspec.Struct, frozen=True):
    """The latest event of every object, one page in the order of the subjects."""

    epoch: int
    """Epoch of the producer. If it changes between two pages, the reader begins again."""
    events: tuple[Event, ...]
    """Latest events of the objects of this page, each with position 0."""
    next: str
    """`after` for the next page. Empty on the last page."""
    cursor: str
    """On the first page: the cursor from which the reader follows the feed after the last page. Empty on other pages."""
