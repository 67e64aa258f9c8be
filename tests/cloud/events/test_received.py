"""`cloud.events.received`: what a follower reads of an event, and the order that it demands."""

from datetime import UTC, datetime

import msgspec
import pytest

from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import Event
from cloud.events.cursor import Cursor
from cloud.events.received import Broken, Known, Nouns, Unknown, require_following
from protocol.ids import EventId
from tests.cloud.events.following import THING
from tests.cloud.events.support import State

NOUNS = Nouns("breakwater", (THING,), ("secret",))
EVENT = Event(
    id=EventId("evt_0000000000000000000000000a"),
    type="dev.cascade.breakwater.thing.changed.v1",
    source="/breakwater",
    subject="thing/a",
    time=datetime(2026, 12, 1, tzinfo=UTC),
    tenant="",
    epoch=7,
    sequence=1,
    position=5,
    traceparent="",
    data=msgspec.Raw(b'{"value":"1","later":true}'),
)
BEFORE, AFTER = Cursor("breakwater", 7, 4), Cursor("breakwater", 7, 6)


def test_an_event_is_read_with_its_body() -> None:
    assert NOUNS.read(EVENT) == Known(EVENT, State("1"))
    assert NOUNS.names == ("thing",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"type": "dev.cascade.breakwater.thing.changed.v2"}, "version"),
        ({"type": "dev.cascade.breakwater.other.changed.v1", "subject": "other/a"}, "type"),
        ({"type": "changed"}, "type"),
        ({"type": "dev.cascade.fabric.thing.changed.v1"}, "foreign"),
        ({"source": "/fabric"}, "foreign"),
        ({"subject": "other/a"}, "foreign"),
        ({"data": msgspec.Raw(b'{"value":null}')}, "body"),
        ({"data": msgspec.Raw(b"{}")}, "body"),
    ],
)
def test_an_event_that_cannot_be_read_says_why(changes: dict[str, object], why: str) -> None:
    event = msgspec.structs.replace(EVENT, **changes)
    assert NOUNS.read(event) == Unknown(event, why)


def test_what_is_ignored_and_what_is_new_to_this_release() -> None:
    ignored = {"type": "dev.cascade.breakwater.secret.kept.v1", "subject": "secret/a"}
    assert NOUNS.read(msgspec.structs.replace(EVENT, **ignored)) is None
    later = msgspec.structs.replace(EVENT, type="dev.cascade.breakwater.thing.folded.v1")
    assert NOUNS.read(later) == Known(later, State("1"))
    two = Nouns("breakwater", (THING, EventNoun(service="breakwater", noun="thing", version=2, body=State, pasts=())))
    assert isinstance(two.read(msgspec.structs.replace(EVENT, type=EVENT.type.replace("v1", "v2"))), Known)


def at(position: int, epoch: int = 7) -> Event:
    return msgspec.structs.replace(EVENT, position=position, epoch=epoch)


def test_events_that_follow_each_other() -> None:
    require_following((at(5), at(6)), BEFORE, AFTER)
    require_following((), BEFORE, BEFORE)


@pytest.mark.parametrize(
    ("events", "after"),
    [
        ((at(6),), AFTER),
        ((at(5), at(7)), AFTER),
        ((at(6), at(5)), AFTER),
        ((at(5), at(5)), AFTER),
        ((at(5), at(6, 8)), AFTER),
        ((at(5),), AFTER),
        ((at(5), at(6)), BEFORE),
        ((), AFTER),
        ((), Cursor("breakwater", 8, 4)),
        ((at(5, 8), at(6, 8)), Cursor("breakwater", 8, 6)),
    ],
)
def test_a_gap_and_another_epoch_are_found(events: tuple[Event, ...], after: Cursor) -> None:
    with pytest.raises(Broken):
        require_following(events, BEFORE, after)
