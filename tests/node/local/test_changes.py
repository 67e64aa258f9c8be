"""The position of the changes: what moves it, what a poll waits for, and how many polls a user has."""

import msgspec
import pytest
import trio
import trio.testing

from node.local.changes import WAITS_PER_USER_MAX, Changes
from protocol.signed.statements import Entitlement
from tests.node.licensing.samples import DAY, T0, changed, make_lease, trusted
from tests.node.licensing.test_entitlements import END, LEASE, START, TERMS, TICK, snapshot


@pytest.fixture
def changes() -> Changes:
    made = Changes("run")
    made.observe(snapshot())
    return made


async def test_only_another_answer_moves_the_position(changes: Changes) -> None:
    cursor = changes.cursor
    changes.observe(snapshot())
    changes.observe(snapshot(time=trusted(T0 + TICK)))
    assert changes.cursor == cursor
    seen = {cursor}
    other = changed(LEASE, entitlements=("render", msgspec.structs.replace(TERMS, limit=9)))
    for each in (
        snapshot(hardware="other"),
        snapshot(lease=None),
        snapshot(time=trusted(START)),
        snapshot(time=trusted(END)),
        snapshot(other),
    ):
        changes.observe(each)
        seen.add(changes.cursor)
    assert len(seen) == 6


async def test_the_end_of_an_entitlement_alone_moves_it() -> None:
    lease = changed(make_lease(), node_key="3b" * 32, entitlements=(Entitlement(name="a", until=T0 + DAY / 2),))
    made = Changes("run")
    made.observe(snapshot(lease, trusted(T0 + DAY / 2 - TICK)))
    cursor = made.cursor
    made.observe(snapshot(lease, trusted(T0 + DAY / 2)))
    assert made.cursor != cursor


async def test_a_poll_ends_with_the_change(changes: Changes, nursery: trio.Nursery, autojump_clock: object) -> None:
    ended: list[bool | None] = []

    async def poll() -> None:
        ended.append(await changes.poll(changes.cursor, 60, 1000))

    nursery.start_soon(poll)
    await trio.testing.wait_all_tasks_blocked()
    changes.observe(snapshot())
    await trio.testing.wait_all_tasks_blocked()
    assert ended == []
    before = trio.current_time()
    changes.observe(snapshot(lease=None))
    await trio.testing.wait_all_tasks_blocked()
    assert (ended, trio.current_time()) == ([True], before)


async def test_a_poll_without_a_change_lasts_its_wait(changes: Changes, autojump_clock: object) -> None:
    began = trio.current_time()
    assert await changes.poll(changes.cursor, 60, 1000) is False
    assert trio.current_time() == began + 60


@pytest.mark.parametrize("cursor", ["", "run-0", "run-7", "another-1", "run-1 ", "\ud800"])
async def test_an_unknown_position_is_answered_at_once(changes: Changes, cursor: str) -> None:
    assert changes.cursor == "run-1"
    assert await changes.poll(cursor, 60, 1000) is True


async def test_a_user_has_so_many_polls(changes: Changes, nursery: trio.Nursery) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as polls:
            for _ in range(WAITS_PER_USER_MAX):
                polls.start_soon(changes.poll, changes.cursor, 60, 1000)
            await trio.testing.wait_all_tasks_blocked()
            assert await changes.poll(changes.cursor, 60, 1000) is None
            assert await changes.poll(changes.cursor, 0, 1001) is False
            scope.cancel()
    assert await changes.poll(changes.cursor, 0, 1000) is False
