"""`cloud.events.outbox`: an event is durable exactly if its change is, and its object counts it."""

import json

import msgspec
import pytest

from cloud.contracts.events import DATA_BYTES_MAX
from cloud.storage import TransactionMisuse
from protocol.ids import parse_id
from tests.cloud.events.support import ROWS, START, Producer, State


async def test_an_event_has_the_state_of_its_object(producer: Producer) -> None:
    await producer.add("a", "one", tenant="ten_1")
    (row,) = await producer.engine.fetch(ROWS)
    assert parse_id("evt", row["id"])
    assert (row["type"], row["subject"], row["sequence"]) == ("dev.cascade.breakwater.thing.changed.v1", "thing/a", 1)
    assert (row["time"], row["tenant"], row["traceparent"]) == (START, "ten_1", "")
    assert json.loads(row["data"]) == {"value": "one"}


async def test_each_object_counts_its_own_events(producer: Producer) -> None:
    for object_id in "aabab":
        await producer.add(object_id)
    await producer.place()
    assert await producer.seen() == [(1, "a", 1), (2, "a", 2), (3, "b", 1), (4, "a", 3), (5, "b", 2)]


async def test_a_change_that_fails_leaves_no_event(producer: Producer) -> None:
    with pytest.raises(RuntimeError):
        async with producer.engine.transaction("thing:a"):
            await producer.outbox.add("thing", "a", "changed", State("lost"))
            raise RuntimeError
    await producer.add("a", "kept")
    await producer.place()
    assert await producer.seen() == [(1, "a", 1)]


async def test_an_event_needs_the_transaction_of_its_change(producer: Producer) -> None:
    with pytest.raises(TransactionMisuse):
        await producer.outbox.add("thing", "a", "changed", State(""))


@pytest.mark.parametrize(
    ("noun", "object_id", "past", "value"),
    [
        ("Thing", "a", "changed", ""),
        ("thing", "a.b", "changed", ""),
        ("thing", "", "changed", ""),
        ("thing", "x" * 91, "changed", ""),
        ("thing", "a", "has changed", ""),
        ("thing", "a", "changed", "x" * DATA_BYTES_MAX),
    ],
)
async def test_what_no_event_can_say(producer: Producer, noun: str, object_id: str, past: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"subject|verb|bytes"):
        async with producer.engine.transaction("thing:a"):
            await producer.outbox.add(noun, object_id, past, State(value))
    assert await producer.engine.fetch(ROWS) == []


async def test_a_commit_wakes_the_sequencer_once(producer: Producer) -> None:
    calls: list[str] = []
    outbox = type(producer.outbox)(
        producer.engine,
        "fabric",
        producer.clock,
        entropy=bytes,
        committed=lambda: calls.append("woken"),
        traceparent=lambda: "00-1-2-01",
    )
    async with producer.engine.transaction("thing:a"):
        await outbox.add("thing", "a", "changed", State(""))
        await outbox.add("thing", "b", "changed", msgspec.structs.replace(State(""), value="x"), version=2)
        assert calls == []
    assert calls == ["woken"]
    assert [(row["type"][-2:], row["traceparent"]) for row in await producer.engine.fetch(ROWS)] == [
        ("v1", "00-1-2-01"),
        ("v2", "00-1-2-01"),
    ]
