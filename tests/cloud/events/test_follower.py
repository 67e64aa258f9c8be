"""`cloud.events.follower`: each event takes effect once and in order, whatever the producer, the net and replicas do."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cloud.contracts.events import Changes, Event, SnapshotPage
from cloud.events.epoch import raise_epoch
from cloud.events.follower import (
    RETRY_SECONDS_FIRST,
    RETRY_SECONDS_MAX,
    WAIT_SECONDS,
    SnapshotNeeded,
    SnapshotTooOld,
)
from cloud.events.received import Broken
from cloud.mtls.client import Unreachable
from cloud.storage import Location, StorageError
from cloud.tasks.stopping import Stopping
from lab.postgres import database_location
from tests.cloud.engines import ENGINES
from tests.cloud.events.following import APPLIED, Replica, following
from tests.cloud.events.support import Producer, opened
from tests.waiting import until


@pytest.fixture(params=ENGINES)
def locations(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Location, Location]:
    """The databases of a producer and of a follower, of the same engine."""
    for name in ("producer", "follower"):
        (tmp_path / name).mkdir()
    return (
        database_location(request.param, "breakwater", tmp_path / "producer"),
        database_location(request.param, "fabric", tmp_path / "follower"),
    )


@pytest.fixture
async def producer(locations: tuple[Location, Location]) -> AsyncIterator[Producer]:
    async with opened(locations[0]) as engine:
        yield Producer(engine)


@pytest.fixture
async def replica(locations: tuple[Location, Location], producer: Producer) -> AsyncIterator[Replica]:
    async with following(locations[1], producer, is_new=True) as made:
        yield made


async def changed(producer: Producer, *changes: str) -> None:
    """Commit one event for each text `OBJECT=VALUE`, and give them positions."""
    for change in changes:
        name, _, value = change.partition("=")
        await producer.add(name, value)
    await producer.place()


async def test_it_begins_with_the_snapshot_and_goes_on_with_the_feed(producer: Producer, replica: Replica) -> None:
    await changed(producer, "a=1", "b=1", "a=2")
    await replica.steps()
    assert await replica.applied() == [("a", "2"), ("b", "1")]
    await changed(producer, "b=2", "c=1", "b=3")
    await replica.steps()
    assert await replica.applied() == [("a", "2"), ("b", "1"), ("b", "2"), ("c", "1"), ("b", "3")]
    assert replica.follower.position == replica.follower.head == 6
    assert replica.effects.heard == [(f"thing/{name}", value) for name, value in await replica.applied()]


async def test_a_restarted_process_goes_on_from_the_stored_cursor(
    producer: Producer, replica: Replica, locations: tuple[Location, Location]
) -> None:
    await changed(producer, "a=1")
    await replica.steps()
    await changed(producer, "a=2")
    async with following(locations[1], producer) as later:
        await later.steps()
        assert later.wire.snapshots == 0
        assert later.effects.heard == [("thing/a", "2")]
    assert await replica.applied() == [("a", "1"), ("a", "2")]


async def test_two_processes_apply_an_event_once_and_both_hear_it(
    producer: Producer, replica: Replica, locations: tuple[Location, Location]
) -> None:
    await changed(producer, "a=1")
    async with following(locations[1], producer) as other:
        await asyncio.gather(replica.steps(), other.steps())
        await changed(producer, "a=2", "b=1")
        await asyncio.gather(replica.steps(), other.steps())
        await changed(producer, "b=2")
        await other.steps()
        await changed(producer, "c=1")
        await other.steps()
        await replica.steps()
        wanted = [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "1")]
        assert await replica.applied() == wanted
        for each in (replica, other):
            assert each.effects.heard == [(f"thing/{name}", value) for name, value in wanted]


async def test_a_replayed_older_event_changes_nothing(producer: Producer, replica: Replica) -> None:
    """A producer that is wrong gives an old event of an object a new position."""
    await changed(producer, "a=1", "a=2")
    await replica.steps()
    await changed(producer, "b=1")

    def replayed(answer: Changes) -> Changes:
        (event,) = answer.events
        old = msgspec.structs.replace(event, subject="thing/a", sequence=1, data=msgspec.Raw(b'{"value":"1"}'))
        return msgspec.structs.replace(answer, events=(old,))

    replica.wire.changes = replayed
    await replica.steps()
    assert await replica.applied() == [("a", "2")]
    replica.wire.changes = lambda answer: answer
    await changed(producer, "a=3")
    await replica.steps()
    assert await replica.applied() == [("a", "2"), ("a", "3")]


async def test_nothing_is_kept_of_events_whose_effect_fails_and_they_come_again(
    producer: Producer, replica: Replica
) -> None:
    await replica.steps()
    before = await replica.cursor()
    await changed(producer, "a=1", "b=1")
    replica.effects.broken = StorageError("the disk is full")
    with pytest.raises(StorageError):
        await replica.steps()
    assert (await replica.cursor(), await replica.applied()) == (before, [])
    assert replica.effects.heard == [("thing/a", "1"), ("thing/b", "1")]
    replica.effects.broken = None
    await replica.steps()
    assert await replica.applied() == [("a", "1"), ("b", "1")]
    assert replica.wire.snapshots == 1


def without_first(answer: Changes) -> Changes:
    return msgspec.structs.replace(answer, events=answer.events[1:])


def of_another_epoch(answer: Changes) -> Changes:
    events = tuple(msgspec.structs.replace(event, epoch=event.epoch - 1) for event in answer.events)
    return msgspec.structs.replace(answer, events=events)


def turned(answer: Changes) -> Changes:
    return msgspec.structs.replace(answer, events=answer.events[::-1])


def ahead(answer: Changes) -> Changes:
    service, epoch, position = answer.cursor.split(".")
    return msgspec.structs.replace(answer, cursor=f"{service}.{epoch}.{int(position) + 1}")


def of_another_service(answer: Changes) -> Changes:
    return msgspec.structs.replace(answer, cursor=answer.cursor.replace("breakwater", "fabric"))


@pytest.mark.parametrize("broken", [without_first, of_another_epoch, turned, ahead, of_another_service])
async def test_after_a_gap_it_reads_the_snapshot(
    producer: Producer, replica: Replica, broken: Callable[[Changes], Changes]
) -> None:
    await replica.steps()
    await changed(producer, "a=1", "b=1")
    replica.wire.changes = broken
    with pytest.raises(Broken):
        await replica.steps()
    assert await replica.applied() == []
    replica.wire.changes = lambda answer: answer
    await replica.steps()
    assert await replica.applied() == [("a", "1"), ("b", "1")]
    assert replica.wire.snapshots == 2


async def test_a_restored_producer_is_read_again_and_what_it_lost_is_absent(
    producer: Producer, replica: Replica, locations: tuple[Location, Location]
) -> None:
    """The events of the new epoch take effect although their sequences are lower."""
    await changed(producer, "a=1", "a=2", "b=1", "gone=1")
    await replica.steps()
    rows = "DELETE FROM event_{} WHERE subject = 'thing/gone'"
    for table in ("object", "outbox"):
        await producer.engine.run_ddl(rows.format(table))
    await producer.engine.run_ddl("DELETE FROM event_outbox WHERE subject = 'thing/a' AND sequence = 2")
    await producer.engine.run_ddl("UPDATE event_object SET sequence = 1 WHERE subject = 'thing/a'")
    producer.clock.forward(timedelta(seconds=5))
    await raise_epoch(producer.engine, producer.clock())
    with pytest.raises(SnapshotNeeded, match="cursor_gone"):
        await replica.steps()
    await replica.steps()
    assert (await replica.applied())[3:] == [("a", "1"), ("b", "1"), ("gone", "absent")]
    await changed(producer, "a=new")
    await replica.steps()
    assert (await replica.applied())[6:] == [("a", "new")]
    keys = [row["key"] for row in await replica.engine.fetch(APPLIED)]
    assert keys == ["breakwater/thing/a", "breakwater/thing/b"]


async def test_what_was_purged_is_read_from_the_snapshot(producer: Producer, replica: Replica) -> None:
    await changed(producer, "a=1")
    await replica.steps()
    await changed(producer, "a=2", "b=1", "a=3")
    producer.clock.forward(timedelta(days=30))
    await changed(producer, "c=1")
    await producer.parts.retention.run_once()
    with pytest.raises(SnapshotNeeded):
        await replica.steps()
    await replica.steps()
    assert await replica.applied() == [("a", "1"), ("a", "3"), ("b", "1"), ("c", "1")]


async def test_a_cursor_of_another_service_is_not_believed(
    producer: Producer, replica: Replica, locations: tuple[Location, Location]
) -> None:
    await changed(producer, "a=1")
    await replica.steps()
    await replica.engine.run_ddl("UPDATE event_cursor SET cursor = 'ledger.1.1'")
    async with following(locations[1], producer) as later:
        await later.steps()
        assert later.wire.snapshots == 1
        assert later.follower.position == 1
    assert await replica.applied() == [("a", "1")]


async def test_a_snapshot_of_an_older_epoch_is_refused(producer: Producer, replica: Replica) -> None:
    await changed(producer, "a=1")
    await replica.steps()
    stored = await replica.cursor()
    await producer.engine.run_ddl("UPDATE event_state SET epoch = 5")
    await changed(producer, "a=2", "b=1")
    with pytest.raises(SnapshotNeeded):
        await replica.steps()
    for _ in range(3):
        with pytest.raises(SnapshotTooOld):
            await replica.steps()
    assert (await replica.cursor(), await replica.applied()) == (stored, [("a", "1")])


async def test_of_a_database_that_went_back_only_newer_facts_count_and_the_cursor_stays(
    producer: Producer, replica: Replica
) -> None:
    """The producer's database was copied back without `cascade restore`, so the epoch is the same."""
    await changed(producer, "a=1", "a=2", "b=1", "b=2")
    await replica.steps()
    stored = await replica.cursor()
    await producer.engine.run_ddl("DELETE FROM event_outbox WHERE position > 1")
    await producer.engine.run_ddl("DELETE FROM event_object WHERE subject = 'thing/b'")
    await producer.engine.run_ddl("UPDATE event_object SET sequence = 1 WHERE subject = 'thing/a'")
    await changed(producer, "c=1")
    with pytest.raises(SnapshotNeeded):
        await replica.steps()
    for _ in range(2):
        with pytest.raises(SnapshotTooOld, match="cascade restore"):
            await replica.steps()
    assert await replica.cursor() == stored
    assert await replica.applied() == [("a", "2"), ("b", "2"), ("c", "1")]
    assert ("thing/c", "1") in replica.effects.heard
    await changed(producer, "d=1", "d=2", "d=3")
    await replica.steps()
    assert (await replica.applied())[3:] == [("d", "3")]


async def test_the_process_ends_between_two_pages(
    producer: Producer, replica: Replica, locations: tuple[Location, Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.events.follower.EVENTS_MAX", 2)
    await changed(producer, *(f"{name}=1" for name in "abcde"))
    pages = 0

    def third_fails(page: SnapshotPage) -> SnapshotPage:
        nonlocal pages
        pages += 1
        if pages == 4:
            raise Unreachable("gone")
        return page

    replica.wire.page = third_fails
    with pytest.raises(Unreachable):
        await replica.steps()
    assert (await replica.cursor(), await replica.applied()) == ("", [(name, "1") for name in "abcd"])
    await changed(producer, "a=2")
    async with following(locations[1], producer) as later:
        await later.steps()
        assert await later.applied() == [(name, "1") for name in "abcd"] + [("a", "2"), ("e", "1")]
        assert later.follower.position == 6


async def test_a_snapshot_whose_epoch_changes_begins_again(
    producer: Producer, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.events.follower.EVENTS_MAX", 2)
    await changed(producer, *(f"{name}=1" for name in "abc"))
    pages = 0

    def another(page: SnapshotPage) -> SnapshotPage:
        nonlocal pages
        pages += 1
        return msgspec.structs.replace(page, epoch=page.epoch + 1) if pages == 3 else page

    replica.wire.page = another
    with pytest.raises(SnapshotNeeded, match="between two pages"):
        await replica.steps()
    assert await replica.cursor() == ""
    await replica.steps()
    assert await replica.applied() == [(name, "1") for name in "abc"]


async def test_pages_out_of_order_are_not_believed(producer: Producer, replica: Replica) -> None:
    await changed(producer, "a=1", "b=1")
    replica.wire.page = lambda page: msgspec.structs.replace(page, events=page.events[::-1])
    with pytest.raises(Broken, match="order"):
        await replica.steps()
    assert await replica.applied() == []


UNREADABLE: dict[str, dict[str, object]] = {
    "version": {"type": "dev.cascade.breakwater.thing.changed.v2"},
    "type": {"type": "dev.cascade.breakwater.person.hired.v1", "subject": "person/b"},
    "body": {"data": msgspec.Raw(b'{"value":7}')},
    "foreign": {"source": "/fabric"},
}


@pytest.mark.parametrize("why", UNREADABLE)
async def test_an_event_that_cannot_be_read_is_left_out_and_said_with_a_bound(
    producer: Producer, replica: Replica, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    await replica.steps()
    await changed(producer, "a=1", *(f"b={number}" for number in range(50)), "c=1")

    def unreadable(event: Event) -> Event:
        return event if event.subject != "thing/b" else msgspec.structs.replace(event, **UNREADABLE[why])

    replica.wire.changes = lambda answer: msgspec.structs.replace(
        answer, events=tuple(unreadable(event) for event in answer.events)
    )
    await replica.steps()
    assert await replica.applied() == [("a", "1"), ("c", "1")]
    assert replica.follower.position == 52
    assert replica.follower.left_out[why] == 50
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.__dict__["kind"].split()[0] for record in said] == [why]


async def test_an_object_whose_event_cannot_be_read_is_not_absent(producer: Producer, replica: Replica) -> None:
    await changed(producer, "a=1", "b=1")
    await replica.steps()
    producer.clock.forward(timedelta(seconds=5))
    await raise_epoch(producer.engine, producer.clock())
    replica.wire.page = lambda page: msgspec.structs.replace(
        page,
        events=tuple(
            msgspec.structs.replace(event, type="dev.cascade.breakwater.thing.changed.v9") for event in page.events
        ),
    )
    with pytest.raises(SnapshotNeeded):
        await replica.steps()
    await replica.steps()
    assert await replica.applied() == [("a", "1"), ("b", "1")]


async def test_an_ignored_noun_is_not_said(
    producer: Producer, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    await replica.steps()
    await changed(producer, "a=1")
    replica.wire.changes = lambda answer: msgspec.structs.replace(
        answer,
        events=tuple(
            msgspec.structs.replace(event, type="dev.cascade.breakwater.secret.kept.v1", subject="secret/a")
            for event in answer.events
        ),
    )
    await replica.steps()
    assert (await replica.applied(), replica.follower.position, caplog.records) == ([], 1, [])


async def test_a_past_participle_of_a_newer_release_is_a_change(producer: Producer, replica: Replica) -> None:
    await replica.steps()
    await changed(producer, "a=1")
    replica.wire.changes = lambda answer: msgspec.structs.replace(
        answer,
        events=tuple(
            msgspec.structs.replace(event, type="dev.cascade.breakwater.thing.folded.v1") for event in answer.events
        ),
    )
    await replica.steps()
    assert await replica.applied() == [("a", "1")]


async def test_it_follows_through_an_outage_and_stops_at_once(producer: Producer, replica: Replica) -> None:
    stopping = Stopping()
    replica.wire.failing = Unreachable("gone")
    sequencer = asyncio.create_task(producer.parts.sequencer.run(stopping))
    task = asyncio.create_task(replica.follower.run(stopping))
    await until("three tries", lambda: len(replica.wire.asked) >= 3)
    assert "gone" in replica.follower.trouble
    replica.wire.failing = None
    await producer.add("a", "1")
    await until("the event", replica.applied)
    await until("the next poll", lambda: replica.wire.asked[-1].endswith(f"wait={WAIT_SECONDS}"))
    await producer.add("a", "2")
    await until("the second event", lambda: ("thing/a", "2") in replica.effects.heard)
    assert replica.follower.trouble == ""
    assert 0 <= replica.follower.answer_age_seconds < WAIT_SECONDS
    stopping.request()
    async with asyncio.timeout(1):
        await asyncio.gather(task, sequencer)


async def test_a_fault_of_an_effect_ends_no_task_and_loses_no_event(
    producer: Producer, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    stopping = Stopping()
    await changed(producer, "a=1")
    replica.effects.broken = RuntimeError("a fault")
    task = asyncio.create_task(replica.follower.run(stopping))
    await until("a failure", lambda: "a fault" in replica.follower.trouble)
    replica.effects.broken = None
    await until("the event", replica.applied)
    stopping.request()
    await task
    assert "a fault in an effect of events" in caplog.text


async def test_wakes_shorten_a_pause_but_never_below_the_first(producer: Producer, replica: Replica) -> None:
    follower, loop = replica.follower, asyncio.get_running_loop()
    follower._back_off._entropy = lambda count: b"\xff" * count
    for _ in range(8):
        follower._back_off.failed(loop.time())
    stopping = Stopping()
    pause = asyncio.create_task(follower._pauses(stopping))
    began = loop.time()

    def flooded() -> bool:
        follower.wake()
        return pause.done()

    await until("the end of the pause", flooded, RETRY_SECONDS_MAX / 2)
    assert loop.time() - began >= RETRY_SECONDS_FIRST - 0.01
    assert not pause.result()


async def test_pauses_are_bounded(producer: Producer, replica: Replica) -> None:
    pauses = [replica.follower._back_off.failed(0.0) for _ in range(20)]
    assert all(0 < pause <= RETRY_SECONDS_MAX for pause in pauses)
