"""`cloud.events.encoding`: an answer has at most so many bytes, and at least one event."""

import msgspec

from cloud.contracts.events import DATA_BYTES_MAX, Changes
from cloud.events.encoding import ANSWER_BYTES_MAX, ENVELOPE_BYTES, EVENTS_MAX, event_of, fitting
from cloud.events.store.outbox import EventRow
from protocol.limits import RESPONSE_BODY_BYTES_MAX
from tests.cloud.events.support import START

LARGEST = EventRow(
    position=2**63 - 1,
    id="evt_" + "z" * 60,
    type="t" * 128,
    subject="s" * 128,
    sequence=2**63 - 1,
    time=START,
    tenant="t" * 64,
    traceparent="t" * 64,
    data=b'"' + b"x" * (DATA_BYTES_MAX - 2) + b'"',
)


def test_an_answer_of_the_largest_events_is_one_that_clients_read() -> None:
    rows = fitting([LARGEST] * EVENTS_MAX)
    assert 10 < len(rows) < EVENTS_MAX
    events = tuple(event_of(row, "breakwater", 2**63 - 1, is_placed=True) for row in rows)
    size = len(msgspec.json.encode(Changes(2**63 - 1, events, "c" * 64, 2**63 - 1)))
    assert ANSWER_BYTES_MAX - DATA_BYTES_MAX - len(rows) * ENVELOPE_BYTES < size < RESPONSE_BODY_BYTES_MAX
    assert len(msgspec.json.encode(events[0])) - DATA_BYTES_MAX < ENVELOPE_BYTES


def test_small_events_all_fit() -> None:
    small = [msgspec.structs.replace(LARGEST, data=b"{}")] * EVENTS_MAX
    assert fitting(small) == small
    assert fitting([]) == []


def test_an_event_of_a_snapshot_has_no_position() -> None:
    assert event_of(LARGEST, "fabric", 5, is_placed=False).position == 0
    waiting = msgspec.structs.replace(LARGEST, position=None)
    assert event_of(waiting, "fabric", 5, is_placed=False).source == "/fabric"
