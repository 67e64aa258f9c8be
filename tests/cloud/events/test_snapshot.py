"""`cloud.events.snapshot`: the latest event of every object, once, and the feed from its cursor has all later ones."""

import msgspec

from cloud.contracts.events import DATA_BYTES_MAX, Event, SnapshotPage
from tests.cloud.events.support import Producer, State


async def pages(producer: Producer, limit: int) -> list[SnapshotPage]:
    found = [await producer.parts.snapshots.page("", limit)]
    while found[-1].next:
        found.append(await producer.parts.snapshots.page(found[-1].next, limit))
    return found


def value(event: Event) -> str:
    return msgspec.json.decode(event.data, type=State).value


async def test_an_empty_snapshot_has_a_cursor(producer: Producer) -> None:
    (page,) = await pages(producer, 10)
    assert (page.events, page.next) == ((), "")
    await producer.add("a")
    await producer.place()
    assert len((await producer.parts.change_feed.after(page.cursor, 0)).events) == 1


async def test_pages_have_each_object_once_with_its_latest_state(producer: Producer) -> None:
    for number in range(3):
        for name in "abcde":
            await producer.add(name, f"{name}{number}")
    await producer.place()
    found = await pages(producer, 2)
    assert [len(page.events) for page in found] == [2, 2, 1]
    assert [value(event) for page in found for event in page.events] == ["a2", "b2", "c2", "d2", "e2"]
    assert {(event.sequence, event.position) for page in found for event in page.events} == {(3, 0)}
    assert [bool(page.cursor) for page in found] == [True, False, False]
    assert len(await pages(producer, 5)) == 2


async def test_a_change_between_two_pages_is_in_the_feed_after_the_cursor(producer: Producer) -> None:
    for name in "abc":
        await producer.add(name, "old")
    first = await producer.parts.snapshots.page("", 2)
    await producer.add("a", "new")
    await producer.add("aa", "new")
    await producer.place()
    second = await producer.parts.snapshots.page(first.next, 2)
    state = {event.subject: value(event) for event in (*first.events, *second.events)}
    changes = await producer.parts.change_feed.after(first.cursor, 0)
    state |= {event.subject: value(event) for event in changes.events}
    assert state == {"thing/a": "new", "thing/aa": "new", "thing/b": "old", "thing/c": "old"}


async def test_an_event_without_a_position_is_in_the_snapshot(producer: Producer) -> None:
    await producer.add("a", "committed")
    (page,) = await pages(producer, 2)
    assert [value(event) for event in page.events] == ["committed"]


async def test_large_states_end_a_page_early(producer: Producer) -> None:
    large = "x" * (DATA_BYTES_MAX - 100)
    async with producer.engine.transaction("thing:all"):
        for number in range(20):
            await producer.outbox.add("thing", f"o{number:02}", "changed", State(large))
    found = await pages(producer, 60)
    assert len(found) == 2
    assert [event.subject for page in found for event in page.events] == [f"thing/o{n:02}" for n in range(20)]
