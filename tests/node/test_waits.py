"""Waits that follow the boot-time clock, on trio's simulated time. The test moves the two other clocks."""

from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing

from node.waits import MOVE_SECONDS_MIN, Move, Waits

START = datetime(2026, 1, 1, tzinfo=UTC)


class Machine:
    """The clocks of a machine. The wall clock goes on with trio's time, with sleeps and with steps."""

    def __init__(self) -> None:
        self.asleep = 1000.0
        self.stepped = 0.0
        self.waits = Waits(self.now, lambda: self.asleep)

    def now(self) -> datetime:
        return START + timedelta(seconds=trio.current_time() + self.asleep + self.stepped)


@pytest.fixture
async def machine() -> Machine:
    made = Machine()
    made.waits.check()
    return made


async def test_a_wait_lasts_its_seconds(machine: Machine, autojump_clock: trio.testing.MockClock) -> None:
    await machine.waits.sleep(90)
    assert trio.current_time() == pytest.approx(90)
    await machine.waits.sleep(0)
    assert trio.current_time() == pytest.approx(90)


@pytest.mark.parametrize(("slept", "ends_at"), [(30, 70), (500, 10)])
async def test_a_sleep_counts(
    slept: float, ends_at: float, machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    """A wait of 100 s; the machine falls asleep after 10 s of it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.waits.sleep, 100)
        await trio.sleep(10)
        machine.asleep += slept
        assert machine.waits.check() == Move(slept, 0)
    assert trio.current_time() == pytest.approx(ends_at)


@pytest.mark.parametrize("stepped", [-86_400.0, 3600.0, 2.5])
async def test_a_step_is_reported_once_and_prolongs_nothing(
    stepped: float, machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.waits.sleep, 100)
        await trio.sleep(10)
        machine.stepped += stepped
        move = machine.waits.check()
        assert move is not None
        assert (move.slept_seconds, round(move.stepped_seconds, 3)) == (0, stepped)
        assert machine.waits.check() is None
    assert trio.current_time() == pytest.approx(100)


async def test_a_slow_correction_is_no_move(machine: Machine, autojump_clock: trio.testing.MockClock) -> None:
    for _ in range(100):
        await trio.sleep(1)
        machine.stepped += MOVE_SECONDS_MIN / 4
        assert machine.waits.check() is None
    machine.asleep += 0.5
    assert machine.waits.check() is None


async def test_the_first_check_compares_nothing() -> None:
    made = Machine()
    made.asleep += 10_000
    assert made.waits.check() is None
