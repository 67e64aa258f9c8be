"""The state directory is lent to a command and comes back, whatever the command does."""

import threading
from pathlib import Path

import pytest
import trio

from node.clock import utc_now
from node.conditions import Conditions
from node.disk.lock import StateLock
from node.disk.thread import DiskSilent, on_disk
from node.errors import StateBusy
from node.lending import LOOK_SECONDS, Lending, StateLent
from tests.waiting import stays, until


class Agent:
    """The part of an agent that lends: it holds the lock until it is asked."""

    def __init__(self, directory: Path, *, taken_seconds: float = 60, disk_seconds: float = 60) -> None:
        self.lock = StateLock(directory)
        self.lock.acquire()
        self.conditions = Conditions(utc_now)
        self.lending = Lending(directory, self.lock.release, taken_seconds=taken_seconds, disk_seconds=disk_seconds)

    async def run(self) -> None:
        await self.lending.asked()
        await self.lending.hand_out(self.conditions)


@pytest.fixture
def agent(tmp_path: Path, nursery: trio.Nursery) -> Agent:
    agent = Agent(tmp_path / "state")
    nursery.start_soon(agent.run)
    return agent


async def test_a_command_gets_the_lock_and_the_agent_waits_for_its_end(agent: Agent, tmp_path: Path) -> None:
    command = StateLock(tmp_path / "state")
    with pytest.raises(StateBusy):
        command.acquire()
    agent.lending.check()
    await agent.lending.lend()
    command.acquire()
    with pytest.raises(StateLent, match="a command of root uses the state"):
        agent.lending.check()
    with pytest.raises(StateLent):
        await agent.lending.lend()
    await stays("the state lent", lambda: not agent.lending.has_returned, 2 * LOOK_SECONDS)
    assert [each.code for each in agent.conditions.current()] == ["state_lent"]
    command.release()
    await until("the state to be back", lambda: agent.lending.has_returned)
    assert agent.conditions.current() == ()


async def test_a_command_that_does_not_come_is_not_waited_for(tmp_path: Path, nursery: trio.Nursery) -> None:
    agent = Agent(tmp_path / "state", taken_seconds=0)
    nursery.start_soon(agent.run)
    await agent.lending.lend()
    await until("the state to be back", lambda: agent.lending.has_returned)


async def test_a_directory_that_cannot_be_locked_is_left_to_the_next_start(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    agent = Agent(tmp_path / "state", taken_seconds=0)
    nursery.start_soon(agent.run)
    await agent.lending.lend()
    (tmp_path / "state").rename(tmp_path / "aside")
    (tmp_path / "state").touch()
    await until("the state to be back", lambda: agent.lending.has_returned)


async def test_disk_work_that_was_cancelled_ends_before_the_lock_is_free(agent: Agent, tmp_path: Path) -> None:
    writes, goes_on = threading.Event(), threading.Event()

    def work() -> None:
        writes.set()
        goes_on.wait(10)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancelled_when, writes, scope)
            await on_disk(work)
        nursery.start_soon(agent.lending.lend)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StateBusy):
            StateLock(tmp_path / "state").acquire()
        goes_on.set()
    with StateLock(tmp_path / "state"):
        pass


async def _cancelled_when(event: threading.Event, scope: trio.CancelScope) -> None:
    await trio.to_thread.run_sync(event.wait, 10)
    scope.cancel()


async def test_a_frozen_disk_lends_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    agent = Agent(tmp_path / "state", disk_seconds=0.05)
    nursery.start_soon(agent.run)
    frozen, thaw = threading.Event(), threading.Event()

    def freeze() -> None:
        frozen.set()
        thaw.wait(10)

    try:
        async with trio.open_nursery() as freezing:
            freezing.start_soon(on_disk, freeze)
            await trio.to_thread.run_sync(frozen.wait, 10)
            with pytest.raises(DiskSilent, match="did not answer within"):
                await agent.lending.lend()
            assert agent.lending.has_returned
            thaw.set()
    finally:
        thaw.set()
    with pytest.raises(StateBusy):
        StateLock(tmp_path / "state").acquire()
