"""Pure functions: an event of the outbox as a message for the stream: a CloudEvent in structured mode.

The form is the JSON format of CloudEvents 1.0.2. `tenant`, `epoch`, `sequence` and `traceparent` are extension
attributes. CloudEvents has no integers of 64 bits, so `epoch` and `sequence` are decimal texts of one length: texts and
numbers have the same order.
"""

from typing import Any

import msgspec

from cloud.contracts.events import NUMBER_MAX, parse_type
from cloud.events.nats.connection import Message
from cloud.events.nats.subjects import EVENTS
from cloud.events.store.outbox import EventRow

DIGITS = len(str(NUMBER_MAX))


def message_of(row: EventRow, service: str, epoch: int, replay: int = 0) -> Message | None:
    """Return the message of an event; None for an event that has no tenant, because it is for services only.

    A repeated message has another id for the server, and is the same CloudEvent.
    """
    kind = parse_type(row.type)
    if not row.tenant or kind is None:
        return None
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": row.id,
        "source": f"/{service}",
        "type": row.type,
        "subject": row.subject,
        "time": row.time,
        "datacontenttype": "application/json",
        "tenant": row.tenant,
        "epoch": str(epoch).zfill(DIGITS),
        "sequence": str(row.sequence).zfill(DIGITS),
    }
    if row.traceparent:
        attributes["traceparent"] = row.traceparent
    attributes["data"] = msgspec.Raw(row.data)
    object_id = row.subject.partition("/")[2]
    return Message(
        subject=f"{EVENTS}.{row.tenant}.{service}.{kind.noun}.{kind.past}.{object_id}",
        id=f"{row.id}-{replay}" if replay else row.id,
        content=msgspec.json.encode(attributes),
    )
