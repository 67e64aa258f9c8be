"""In-memory state: the time in which a node waits for the first answer after its start, and retries quickly.

The network often comes some seconds after the agent. A machine that wakes from a sleep has the same gap, and so has a
machine whose clock is set past the dates of its lease. Without an answer the gate can stay closed until the next
heartbeat slot. So the node retries quickly, with jitter, until the cloud answers or one heartbeat has passed: about 18
contacts in 600 s. After that only the slots count, because a whole fleet may have lost the cloud.
"""

from random import Random

from node.exchanges import schedule


class FirstAnswer:
    """Whether quick retries are due, and when. Times are seconds of the boot-time clock.

    Args:
        now: the time of the start.
        heartbeat_seconds: length of a heartbeat slot.
        random: source of the jitter.
    """

    def __init__(self, now: float, heartbeat_seconds: float, random: Random) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._random = random
        self._ends_at = now + heartbeat_seconds
        self._tries = 0
        self._wait: float | None = None

    def begin(self, now: float) -> None:
        """Begin again: the machine has slept, or its clock was set. The first contact follows within some seconds."""
        self._ends_at = now + self._heartbeat_seconds
        self._tries = 0
        self._wait = now + schedule.waking_seconds(self._random)

    def seconds(self, now: float) -> float | None:
        """Seconds until the next quick contact; None if only the slots count. Repeated calls name the same time."""
        if now >= self._ends_at:
            return None
        if self._wait is None:
            self._wait = now + schedule.first_answer_seconds(self._tries, self._random)
            self._tries += 1
        return max(self._wait - now, 0.0)

    def tried(self) -> None:
        """A contact was made. The next quick contact has a longer pause."""
        self._wait = None

    def answered(self) -> None:
        """The cloud has answered. Only the slots count from now on."""
        self._ends_at, self._wait = float("-inf"), None
