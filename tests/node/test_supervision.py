"""A loop that fails: the exception is reported and logged once, and the loop runs again after growing pauses."""

import logging

import pytest
import trio
import trio.testing

from node.clock import utc_now
from node.conditions import Conditions
from node.supervision import (
    PAUSE_SECONDS_MAX,
    STEADY_SECONDS,
    UnexpectedErrors,
    supervised,
)


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(utc_now)


class Loop:
    """A loop that raises the given exceptions, one a run, and then waits."""

    def __init__(self, *errors: Exception, steady_seconds: float = 0) -> None:
        self.errors = list(errors)
        self.starts: list[float] = []
        self._steady_seconds = steady_seconds

    async def __call__(self) -> None:
        self.starts.append(trio.current_time())
        await trio.sleep(self._steady_seconds)
        if self.errors:
            raise self.errors.pop(0)
        await trio.sleep_forever()


def pauses(loop: Loop) -> list[float]:
    return [round(later - earlier) for earlier, later in zip(loop.starts, loop.starts[1:], strict=False)]


async def run_for(seconds: float, loop: Loop, conditions: Conditions) -> None:
    with trio.move_on_after(seconds):
        await supervised("wake channel", loop, UnexpectedErrors(conditions))


async def test_it_goes_on_after_growing_pauses(autojump_clock: trio.testing.MockClock, conditions: Conditions) -> None:
    loop = Loop(*(RuntimeError("again") for _ in range(9)))
    await run_for(400, loop, conditions)
    assert pauses(loop) == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(pauses(loop)) == PAUSE_SECONDS_MAX


async def test_the_condition_ends_when_the_loop_is_steady(
    autojump_clock: trio.testing.MockClock, conditions: Conditions
) -> None:
    await run_for(STEADY_SECONDS, Loop(OSError(5, "I/O error")), conditions)
    (condition,) = conditions.current()
    assert (condition.code, "OSError" in condition.text, bool(condition.next)) == ("fault_wake_channel", True, True)
    await run_for(STEADY_SECONDS + 2, Loop(OSError(5, "I/O error")), conditions)
    assert conditions.current() == ()


async def test_a_steady_loop_begins_with_the_shortest_pause(
    autojump_clock: trio.testing.MockClock, conditions: Conditions
) -> None:
    loop = Loop(*(RuntimeError("again") for _ in range(3)), steady_seconds=STEADY_SECONDS)
    await run_for(500, loop, conditions)
    assert pauses(loop) == [STEADY_SECONDS + 1] * 3


async def test_the_traceback_is_logged_once(
    autojump_clock: trio.testing.MockClock, conditions: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    """A text that differs in a number is the same fault."""
    await run_for(100, Loop(*(RuntimeError(f"try {number}") for number in range(3)), KeyError("x")), conditions)
    traces = [record.getMessage() for record in caplog.records if "in __call__" in record.getMessage()]
    assert len(traces) == 2
    assert len(caplog.records) == 4


async def test_an_exception_on_purpose_ends_it(autojump_clock: trio.testing.MockClock, conditions: Conditions) -> None:
    with pytest.raises(LookupError):
        await supervised("contact", Loop(LookupError()), UnexpectedErrors(conditions), ends=(LookupError,))
    assert conditions.current() == ()


async def test_a_loop_that_returns_is_not_run_again(conditions: Conditions) -> None:
    runs = []

    async def loop() -> None:
        runs.append(1)

    await supervised("watchdog", loop, UnexpectedErrors(conditions))
    assert len(runs) == 1


async def test_a_cancellation_ends_it_also_when_the_loop_fails_at_the_same_time(
    autojump_clock: trio.testing.MockClock, conditions: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails_at_the_end() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("at the end")

    with trio.move_on_after(1) as scope:
        await supervised("socket", fails_at_the_end, UnexpectedErrors(conditions))
    assert scope.cancelled_caught
    assert "at the end" in caplog.text


def test_a_text_from_outside_is_one_short_line(conditions: Conditions, caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("ten\x1b[31m\nINFO cascadia: forged " + "A" * 100_000)
    UnexpectedErrors(conditions).report("contact", error)
    assert "\x1b" not in caplog.text
    assert not any(line.startswith("INFO") for line in caplog.records[0].getMessage().splitlines())
    assert len(caplog.records[0].getMessage()) < 2000
    assert caplog.records[0].levelno == logging.ERROR


def test_the_causes_are_logged(conditions: Conditions, caplog: pytest.LogCaptureFixture) -> None:
    try:
        try:
            raise OSError("the cause")
        except OSError as cause:
            raise RuntimeError("the effect") from cause
    except RuntimeError as error:
        UnexpectedErrors(conditions).report("contact", error)
    message = caplog.records[0].getMessage()
    assert message.index("the cause") < message.rindex("the effect")
