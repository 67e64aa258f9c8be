"""Pure functions: events of the outbox as messages, and how many of them fit into one answer."""

from collections.abc import Sequence
from typing import cast

import msgspec

from cloud.contracts.events import Event
from cloud.events.store.outbox import EventRow
from protocol.ids import EventId

EVENTS_MAX = 256
"""Events in one answer."""
ANSWER_BYTES_MAX = 768 * 1024
"""Bytes of the events in one answer. It is less than a client reads (`RESPONSE_BODY_BYTES_MAX`)."""
ENVELOPE_BYTES = 1024
"""Most bytes of an event without its `data`: names and texts whose length is bounded."""


def fitting(rows: Sequence[EventRow]) -> Sequence[EventRow]:
    """Return the first rows, as many as one answer may have, and at least one."""
    size = 0
    for number, row in enumerate(rows):
        size += len(row.data) + ENVELOPE_BYTES
        if number and size > ANSWER_BYTES_MAX:
            return rows[:number]
    return rows


def event_of(row: EventRow, service: str, epoch: int, *, is_placed: bool) -> Event:
    """Return the message of an event, in the current epoch. Without `is_placed` its position is 0."""
    return Event(
        id=cast(EventId, row.id),
        type=row.type,
        source=f"/{service}",
        subject=row.subject,
        time=row.time,
        tenant=row.tenant,
        epoch=epoch,
        sequence=row.sequence,
        position=(row.position or 0) if is_placed else 0,
        traceparent=row.traceparent,
        data=msgspec.Raw(row.data),
    )
