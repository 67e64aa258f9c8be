"""`cloud.fabric.wake`: a waiting poll returns within a second after a change."""

import asyncio
import threading

import pytest

from cloud.fabric.errors import TooOften
from cloud.fabric.wake import POLLS_PER_NODE, WAKES_AT_ONCE, WakeRoom
from cloud.mtls.peer import NodePeer
from cloud.storage.sqlite import SqliteBackend
from cloud.tasks.stopping import Stopping
from protocol.ids import NodeId
from tests.cloud.fabric.support import Machine, World, change, doorbell_of, waiters_in, waiting_polls
from tests.waiting import until


async def test_a_waiting_node_is_woken_by_a_change(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    peer = await machine.peer()
    cursor = (await world.parts.nodes.statements.events(peer, 0, 30)).cursor
    poll = asyncio.create_task(world.parts.nodes.statements.events(peer, cursor, 30))
    await until("the poll", lambda: waiting_polls(world) == 1)
    assert not poll.done()
    await change(world, machine, "revoke")
    async with asyncio.timeout(1):
        assert (await poll).cursor == cursor + 1


async def test_a_poll_ends_after_its_time_and_at_shutdown(world: World) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    peer: NodePeer = await machine.peer()
    cursor = (await world.parts.nodes.statements.events(peer, 0, 0)).cursor
    assert (await world.parts.nodes.statements.events(peer, cursor, 0.05)).cursor == cursor
    poll = asyncio.create_task(world.parts.nodes.statements.events(peer, cursor, 30))
    await until("the poll", lambda: waiting_polls(world) == 1)
    world.parts.shared.wake_room.close()
    async with asyncio.timeout(1):
        await poll
        await world.parts.nodes.statements.events(peer, cursor, 30)


async def test_a_change_that_is_cancelled_inside_its_commit_wakes_the_node(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline of the operator's request ends it while SQLite waits for the disk. The change is kept."""
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    peer, stopping = await machine.peer(), Stopping()
    listening = asyncio.create_task(doorbell_of(world).run(stopping))
    cursor = (await world.parts.nodes.statements.events(peer, 0, 30)).cursor
    poll = asyncio.create_task(world.parts.nodes.statements.events(peer, cursor, 250))
    await until("the poll", lambda: waiting_polls(world) == 1)
    commits, goes_on = threading.Event(), threading.Event()
    commit = SqliteBackend._commit

    def slow(backend: SqliteBackend) -> None:
        commits.set()
        assert goes_on.wait(30)
        commit(backend)

    monkeypatch.setattr(SqliteBackend, "_commit", slow)
    request = asyncio.create_task(change(world, machine, "revoke"))
    await until("the commit", commits.is_set)
    request.cancel()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await request
    async with asyncio.timeout(5):
        assert (await poll).cursor == cursor + 1
    assert (await world.node(machine.node)).standing == "revoked"
    stopping.request()
    await listening


class Cursors:
    """The cursors of nodes, without a database."""

    def __init__(self) -> None:
        self.value = 1

    async def __call__(self) -> int:
        return self.value


async def test_a_hint_wakes_the_polls_of_its_nodes_only() -> None:
    room, cursor = WakeRoom(), Cursors()
    names = [NodeId(f"node_{number}") for number in range(3)]
    polls = [asyncio.create_task(room.wait(name, 1, 30, cursor)) for name in names]
    await until("the polls", lambda: waiters_in(room) == 3)
    cursor.value = 2
    room.take_hint(" ".join(names[:2]))
    async with asyncio.timeout(1):
        assert await asyncio.gather(*polls[:2]) == [2, 2]
    assert not polls[2].done()
    room.take_hint("")
    room.close()
    await polls[2]


@pytest.mark.parametrize("count", [1, 2 * WAKES_AT_ONCE + 1])
async def test_after_lost_hints_every_poll_reads_its_cursor(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.fabric.wake.WAKES_PAUSE_SECONDS", 0)
    room, cursor = WakeRoom(), Cursors()
    polls = [asyncio.create_task(room.wait(NodeId(f"node_{number}"), 1, 30, cursor)) for number in range(count)]
    await until("the polls", lambda: waiters_in(room) == count)
    cursor.value = 2
    await room.wake_all()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*polls) == [2] * count


async def test_a_node_holds_two_polls_and_the_newest_stay() -> None:
    room, cursor = WakeRoom(), Cursors()
    bystander = asyncio.create_task(room.wait(NodeId("node_2"), 1, 30, cursor))
    polls: list[asyncio.Task[int]] = []
    for _ in range(50):
        polls.append(asyncio.create_task(room.wait(NodeId("node_1"), 1, 30, cursor)))
        await asyncio.sleep(0)
    replaced = await asyncio.gather(*polls[:-POLLS_PER_NODE], return_exceptions=True)
    assert {type(each) for each in replaced} == {TooOften}
    # A question without a wait ends no poll.
    assert await room.wait(NodeId("node_1"), 1, 0, cursor) == 1
    await until("the polls", lambda: waiters_in(room) == 1 + POLLS_PER_NODE)
    cursor.value = 2
    room.wake(NodeId("node_1"))
    async with asyncio.timeout(5):
        assert await asyncio.gather(*polls[-POLLS_PER_NODE:]) == [2] * POLLS_PER_NODE
    assert not bystander.done()
    room.close()
    await bystander
    assert not room._waiting
