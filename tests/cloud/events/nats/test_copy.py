"""`cloud.events.nats.copy`: every event of a tenant reaches the stream, in order, whatever NATS and the process do."""

import asyncio
import logging
from pathlib import Path

import pytest
from cloudevents.core.formats.json import JSONFormat

from cloud.clock import utc_now
from cloud.events.nats import copy as copying
from cloud.events.nats.connection import NatsRefused, connected
from cloud.events.store.copy import CopyStore
from lab.nats import NatsServer
from protocol import faults
from protocol.faults import Stage
from tests.cloud.events.nats.support import access_of, copy_of, running, stored
from tests.cloud.events.support import Producer
from tests.waiting import until

POINTS = ("nats.copy.begin", "nats.copy.hold", "nats.copy.advance", "nats.copy.release")


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def own(tmp_path: Path) -> NatsServer:
    """A server of this test, which does not run."""
    return NatsServer(tmp_path / "nats")


async def _positions(producer: Producer) -> int:
    row = await CopyStore(producer.engine).find()
    return 0 if row is None else row.position


async def _objects(server: NatsServer) -> list[tuple[str, str]]:
    """Tenant and subject of each event of the stream, as `cloudevents` reads it."""
    events = [JSONFormat().read(None, message.data) for message in await stored(server)]
    return [(event.get_attributes()["tenant"], event.get_attributes()["subject"] or "") for event in events]


async def test_events_of_tenants_are_copied_in_order(producer: Producer, own: NatsServer) -> None:
    await asyncio.to_thread(own.start)
    try:
        expected = [(f"tnt_{number % 2}", f"thing/{number}") for number in range(3 * copying.BATCH)]
        await producer.add("private")
        for tenant, subject in expected:
            await producer.add(subject.removeprefix("thing/"), tenant=tenant)
        await producer.place()
        copy = copy_of(producer, access_of(own))
        async with running(copy):
            head = len(expected) + 1
            await until("the copy", lambda: _reached(producer, head))
            await producer.add("late", tenant="tnt_1")
            await producer.place()
            copy.wake()
            await until("a later event", lambda: _reached(producer, head + 1))
        assert await _objects(own) == [*expected, ("tnt_1", "thing/late")]
    finally:
        own.kill()


async def _reached(producer: Producer, position: int) -> bool:
    return await _positions(producer) >= position


async def test_a_server_that_was_away_gets_everything(
    producer: Producer, own: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(copying, "BACK_OFF_SECONDS_MAX", 0.05)
    await producer.add("a", tenant="tnt_1")
    await producer.place()
    copy = copy_of(producer, access_of(own))
    async with running(copy):
        await until("the trouble", lambda: copy.trouble)
        await asyncio.to_thread(own.start)
        await until("the copy", lambda: _reached(producer, 1))
        own.kill()
        await producer.add("b", tenant="tnt_1")
        await producer.place()
        copy.wake()
        await until("the trouble", lambda: copy.trouble)
        await asyncio.to_thread(own.start)
        await until("the copy", lambda: _reached(producer, 2))
    try:
        assert await _objects(own) == [("tnt_1", "thing/a"), ("tnt_1", "thing/b")]
        assert not copy.trouble
        said = [record for record in caplog.records if record.message == "cannot copy events to NATS"]
        assert said
        assert all(record.levelno == logging.WARNING for record in said)
    finally:
        own.kill()


async def test_a_new_stream_gets_all_events_again(producer: Producer, own: NatsServer, tmp_path: Path) -> None:
    other = NatsServer(tmp_path / "other")
    for object_id in "ab":
        await producer.add(object_id, tenant="tnt_1")
    await producer.place()
    await _copied(producer, own, 2)
    await _copied(producer, other, 2)


async def _copied(producer: Producer, server: NatsServer, count: int) -> None:
    """Run the copy until the stream of a server has `count` events."""
    await asyncio.to_thread(server.start)

    async def is_whole() -> bool:
        async with connected(access_of(server)) as link:
            try:
                found = await link.ask("STREAM.INFO.CASCADE_EVENTS", {})
            except NatsRefused:  # the stream is not made yet
                return False
            return int(found["state"]["messages"]) == count

    try:
        async with running(copy_of(producer, access_of(server))):
            await until("the copy", is_whole)
    finally:
        server.kill()


@pytest.mark.parametrize(("point", "stage"), [*zip(POINTS, ("before", "after") * 2, strict=True)])
async def test_a_kill_loses_nothing_and_stores_nothing_twice(
    producer: Producer, own: NatsServer, monkeypatch: pytest.MonkeyPatch, point: str, stage: Stage
) -> None:
    """The process dies at a durable step. A new process of the same replica goes on. `PART=nats` walks both stages."""
    monkeypatch.setattr(faults, "_hooks", [])
    await asyncio.to_thread(own.start)
    for object_id in "abc":
        await producer.add(object_id, tenant="tnt_1")
    await producer.place()

    def kill(name: str, at: Stage) -> None:
        if (name, at) == (point, stage):
            raise Killed

    faults.install(kill)
    try:
        async with running(copy_of(producer, access_of(own))) as task:
            if point == "nats.copy.release":
                await until("the copy", lambda: _reached(producer, 3))
            else:
                await asyncio.wait((task,), timeout=10)
        with pytest.raises(Killed):
            task.result()
        faults._hooks.clear()
        async with running(copy_of(producer, access_of(own))):
            await until("the copy", lambda: _reached(producer, 3))
        assert await _objects(own) == [("tnt_1", f"thing/{each}") for each in "abc"]
    finally:
        own.kill()


async def test_a_second_replica_copies_when_the_first_has_stopped(producer: Producer, own: NatsServer) -> None:
    await asyncio.to_thread(own.start)
    first, second = (copy_of(producer, access_of(own), owner) for owner in ("first", "second"))
    try:
        async with running(first):
            await producer.add("a", tenant="tnt_1")
            await producer.place()
            await until("the first copy", lambda: _reached(producer, 1))
            assert await CopyStore(producer.engine).hold("second", utc_now(), utc_now()) is None
            assert await second._hold() is None
        async with running(second):
            await producer.add("b", tenant="tnt_1")
            await producer.place()
            second.wake()
            await until("the second copy", lambda: _reached(producer, 2))
        assert await _objects(own) == [("tnt_1", "thing/a"), ("tnt_1", "thing/b")]
    finally:
        own.kill()


async def test_positions_are_replayed_once(producer: Producer, own: NatsServer) -> None:
    await asyncio.to_thread(own.start)
    store = CopyStore(producer.engine)
    for object_id in "abcd":
        await producer.add(object_id, tenant="tnt_1")
    await producer.place()
    copy = copy_of(producer, access_of(own))
    try:
        async with running(copy):
            await until("the copy", lambda: _reached(producer, 4))
            assert await store.replay(2, 3) is not None
            copy.wake()

            async def is_done() -> bool:
                row = await store.find()
                return row is not None and not row.replay_next

            await until("the replay", is_done)
        assert [subject for _, subject in await _objects(own)] == [f"thing/{each}" for each in "abcdbc"]
    finally:
        own.kill()


async def test_consumers_follow_the_database(producer: Producer, own: NatsServer) -> None:
    await asyncio.to_thread(own.start)
    wanted = {"cns_1": "tnt_1"}

    async def consumers() -> dict[str, str]:
        return dict(wanted)

    access = access_of(own, "fabric")
    copy = copy_of(producer, access, consumers=consumers)

    async def is_done() -> bool:
        async with connected(access) as link:
            try:
                found = await link.ask("CONSUMER.NAMES.CASCADE_EVENTS", {"offset": 0})
            except NatsRefused:  # the stream is not made yet
                return False
        return set(found["consumers"] or ()) == set(wanted)

    try:
        async with running(copy):
            await until("the first consumer", is_done)
            wanted["cns_2"] = "tnt_2"
            del wanted["cns_1"]
            copy.consumers_changed()
            await until("the change", is_done)
    finally:
        own.kill()
