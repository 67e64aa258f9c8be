"""Statements that wait for the disk: retried with back-off, named in a condition, and stored in order."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import trio
import trio.testing

from node.clock import utc_now
from node.conditions import Conditions
from node.disk.thread import DiskSilent
from node.errors import DiskFull, StateUnwritable
from node.licensing import saving
from node.licensing.acceptance import Accept
from node.licensing.floor_store import FloorStore
from node.licensing.raising import FloorKeeper
from node.licensing.saving import NOT_STORED, RETRY_SECONDS_FIRST, RETRY_SECONDS_MAX, Saver
from node.licensing.store import LicenceStore
from tests.node.licensing.samples import HOLDER, RING, T0, make_lease, make_revocation, make_suspension, verified

LEASE = verified(make_lease(seq=1))
SUSPENSION = verified(make_suspension(seq=2))
REVOCATION = verified(make_revocation(seq=3))


class Disk:
    """Renames of files fail while `full` is true, or while their name contains `bad`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self.bad, self.tries = False, "", 0
        rename = os.rename

        def renamed(source: str, target: str, **where: int) -> None:
            self.tries += 1
            if self.full or (self.bad and self.bad in str(target)):
                raise OSError(errno.ENOSPC, "full")
            rename(source, target, **where)

        monkeypatch.setattr("os.rename", renamed)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(utc_now)


@pytest.fixture
def saver(tmp_path: Path, conditions: Conditions) -> Saver:
    floors = FloorKeeper(FloorStore(tmp_path / "state"), conditions)
    return Saver(LicenceStore(tmp_path / "state"), conditions, floors)


async def test_a_statement_is_stored_and_then_the_work_after_it_is_done(saver: Saver) -> None:
    done: list[bool] = []
    saver.put(Accept(LEASE), T0)
    saver.put_then(1, lambda: done.append(saver.store.load(HOLDER, RING).statement == LEASE))
    assert saver.waits(1)
    assert await saver.flush() is None
    assert (saver.waits(1), done, saver.store.load(HOLDER, RING).statement) == (False, [True], LEASE)
    assert await saver.flush() is None
    assert done == [True]


async def test_a_later_statement_replaces_one_that_waits(saver: Saver, disk: Disk) -> None:
    disk.full = True
    saver.store.tombstone_path(1).parent.mkdir(parents=True, mode=0o700)
    saver.store.tombstone_path(1).write_bytes(b"torn")
    saver.put(Accept(LEASE, settles=True), T0)
    assert isinstance(await saver.flush(), DiskFull)
    saver.put(Accept(SUSPENSION), T0)
    disk.full = False
    before = disk.tries
    assert await saver.flush() is None
    assert disk.tries == before + 2 + 1, "two records, and the doubtful tombstone that the first one settles"
    assert saver.store.load(HOLDER, RING).statement == SUSPENSION


async def test_what_is_not_stored_is_a_condition_until_it_is_stored(
    saver: Saver, disk: Disk, conditions: Conditions
) -> None:
    disk.full = True
    saver.put(Accept(REVOCATION), T0)
    done: list[int] = []
    saver.put_then(1, lambda: done.append(1))
    assert isinstance(await saver.flush(), DiskFull)
    (condition,) = conditions.current()
    assert condition.code == NOT_STORED
    assert "cannot store the revocation of generation 1" in condition.text
    assert all(str(path) in condition.text for path in saver.store.records(REVOCATION))
    assert "no space is left" in condition.text
    assert "would forget it" in condition.text
    assert "Free space" in condition.next
    assert done == []
    disk.full, disk.bad = False, "g-1.json"
    assert await saver.flush() is None, "one record is enough"
    (condition,) = conditions.current()
    assert "another record has it" in condition.text
    assert (done, saver.waits(1)) == ([1], True)
    disk.bad = ""
    assert await saver.flush() is None
    assert (conditions.current(), saver.waits(1)) == ((), False)


async def test_only_the_records_that_failed_are_written_again(saver: Saver, disk: Disk) -> None:
    disk.bad = "statement-g-1"
    saver.put(Accept(LEASE), T0)
    await saver.flush()
    before = saver.store.statement_path(1).stat().st_ino
    disk.bad = ""
    await saver.flush()
    assert saver.store.statement_path(1).stat().st_ino == before
    assert saver.store.load(HOLDER, RING).partial is False


async def test_work_that_the_disk_refuses_is_repeated(saver: Saver, conditions: Conditions) -> None:
    outcomes = iter([StateUnwritable(Path("/current.json"), "why"), None])

    def work() -> None:
        if error := next(outcomes):
            raise error

    saver.put_then(2, work)
    error = await saver.flush()
    assert error is not None
    assert conditions.current()[0].text == error.text == "cannot write /current.json: why"
    assert await saver.flush() is None
    assert conditions.current() == ()


async def test_retries_back_off_and_a_new_statement_is_tried_at_once(
    saver: Saver,
    disk: Disk,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def in_the_loop(work: Callable[[], object], *, seconds_max: float) -> object:
        # The clock would jump while a thread works.
        assert seconds_max == saving.WRITE_SECONDS_MAX
        return work()

    monkeypatch.setattr(saving, "on_disk", in_the_loop)
    disk.full = True
    saver.put(Accept(LEASE), T0)
    nursery.start_soon(saver.run)
    await trio.testing.wait_all_tasks_blocked()
    began, hours = trio.current_time(), 7200.0
    with trio.move_on_after(hours):
        await trio.sleep_forever()
    assert trio.current_time() - began >= hours
    retries = disk.tries / 2
    assert hours / RETRY_SECONDS_MAX <= retries < hours / RETRY_SECONDS_MAX + 10 < hours / RETRY_SECONDS_FIRST
    disk.full = False
    at = trio.current_time()
    saver.put(Accept(SUSPENSION), T0)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() - at < RETRY_SECONDS_FIRST
    assert saver.store.load(HOLDER, RING).statement == SUSPENSION


async def test_a_frozen_disk_holds_up_neither_the_loop_nor_the_end(
    saver: Saver, conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed, fsync = Event(), os.fsync

    def frozen(descriptor: int) -> None:
        thawed.wait(20)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", frozen)
    monkeypatch.setattr(saving, "WRITE_SECONDS_MAX", 0.02)
    monkeypatch.setattr(saving, "FINISH_SECONDS_MAX", 0.01)
    saver.put(Accept(LEASE), T0)
    began = trio.current_time()
    error = await saver.flush()
    assert error is not None
    assert "did not answer" in error.text
    assert [condition.code for condition in conditions.current()] == [NOT_STORED]
    await saver.finish()
    assert trio.current_time() - began < 5
    thawed.set()
    for name in ("WRITE_SECONDS_MAX", "FINISH_SECONDS_MAX"):
        monkeypatch.setattr(saving, name, 20)
    await saver.finish()
    assert saver.store.load(HOLDER, RING).statement == LEASE


async def test_a_doubtful_tombstone_is_renamed_also_after_the_disk_was_silent(
    saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saver.store.tombstone_path(1)
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(b"torn")

    async def silent(_: Callable[[], object], *, seconds_max: float) -> object:
        raise DiskSilent(seconds_max)

    saver.put(Accept(LEASE, settles=True), T0)
    with monkeypatch.context() as patched:
        patched.setattr(saving, "on_disk", silent)
        assert isinstance(await saver.flush(), DiskSilent)
    assert await saver.flush() is None
    assert not path.exists()
    assert saver.store.load(HOLDER, RING).damaged == ()
