"""In-memory state: waits of the agent that a sleep of the machine and a step of the wall clock cannot prolong.

Trio counts time with the monotonic clock, which does not change while the machine sleeps. `Waits` adds the time asleep,
so its seconds are those of the boot-time clock. `check` compares the clocks. The agent calls `check` every second.

The kernel can report a step of the wall clock (timerfd with TFD_TIMER_CANCEL_ON_SET). It reports no sleep, and no step
in a machine whose clock is simulated. The comparison finds both, and costs some microseconds.
"""

from collections.abc import Callable

import trio
from msgspec import Struct

from node.clock import Clock, asleep_seconds

CHECK_SECONDS = 1.0
"""Pause between two checks of the clocks. After a sleep the agent continues within this time."""
MOVE_SECONDS_MIN = 2.0
"""A change of less between two checks is not reported. Time services correct smaller errors slowly, without a step."""


class Move(Struct, frozen=True):
    """What has happened to the clocks between two checks."""

    slept_seconds: float
    """Time for which the machine has slept. The wall clock has moved by the same time."""
    stepped_seconds: float
    """Step of the wall clock that no sleep explains; below 0 if somebody set the clock back."""


class Waits:
    """The boot-time clock, and waits that follow it.

    Args:
        clock: the wall clock.
        asleep: returns the seconds for which the machine has slept since its boot.
    """

    def __init__(self, clock: Clock, asleep: Callable[[], float] = asleep_seconds) -> None:
        self._clock = clock
        self._asleep = asleep
        self._moved = trio.Event()
        self._seen: tuple[float, float] | None = None

    def now(self) -> float:
        """Seconds of the boot-time clock since an arbitrary start. The value also grows while the machine sleeps."""
        return trio.current_time() + self._asleep()

    def check(self) -> Move | None:
        """Compare the clocks with those of the last check. A move ends the present pieces of all waits."""
        asleep = self._asleep()
        offset = self._clock().timestamp() - trio.current_time() - asleep
        before, self._seen = self._seen, (asleep, offset)
        if before is None:
            return None
        move = Move(asleep - before[0], offset - before[1])
        if max(move.slept_seconds, abs(move.stepped_seconds)) < MOVE_SECONDS_MIN:
            return None
        self._moved.set()
        self._moved = trio.Event()
        return move

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of the boot-time clock. After a longer sleep of the machine the wait ends at once."""
        ends_at = self.now() + seconds
        while (left := ends_at - self.now()) > 0:
            with trio.move_on_after(left):
                await self._moved.wait()
