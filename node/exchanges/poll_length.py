"""In-memory state: the length of the next long poll. It adapts to devices on the way that cut idle connections.

Proxies, firewalls and address translators often cut an exchange without bytes after 60 to 120 s, some after 10 s. Few
long polls cost the cloud little, so a poll may last 250 s where the way allows it. The length starts below 60 s. It
grows with each poll that lives to its end. A cut makes the next poll shorter than the life of the cut poll. Each cut
doubles the number of whole polls before the next, longer try; whole polls of the full length halve the number.
"""

from random import Random

from protocol.limits import EVENT_WAIT_SECONDS_MAX

START_SECONDS = 55.0
"""Length of the first poll, below the common limit of 60 s."""
SHORTEST_SECONDS = 8.0
"""A poll never becomes shorter, so that a broken way costs the cloud at most about eight requests a minute."""
LIFE_SECONDS_MIN = 5.0
"""A poll that ended sooner says nothing about idle connections; the cloud or the network was away."""
GROWTH = 1.25
CUT_SHARE = 0.8
"""The next poll has this share of the life of the poll that was cut."""
WHOLE_POLLS_MAX = 64
"""Most whole polls before a longer try; an hour of polls of 55 s."""
SPREAD = 0.2
"""A poll is shorter than the present length by up to this share, so that polls that begin together end apart."""


class PollLength:
    """The length of long polls on the present way to the cloud. `random` is the source of the spread."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._seconds = START_SECONDS
        self._whole = 0
        self._whole_needed = 1

    def next_seconds(self, longest: int = EVENT_WAIT_SECONDS_MAX) -> int:
        """The length of the next poll, in whole seconds, at most `longest`."""
        return max(round(min(self._seconds, longest) * self._random.uniform(1 - SPREAD, 1)), 1)

    def whole(self) -> None:
        """A poll lived to its end."""
        self._whole += 1
        if self._whole < self._whole_needed:
            return
        self._whole = 0
        if self._seconds == EVENT_WAIT_SECONDS_MAX:
            self._whole_needed = max(self._whole_needed // 2, 1)
        self._seconds = min(self._seconds * GROWTH, EVENT_WAIT_SECONDS_MAX)

    def cut(self, lived_seconds: float) -> bool:
        """A poll ended without an answer after `lived_seconds`. Returns True if the poll lived before it was cut."""
        if lived_seconds < LIFE_SECONDS_MIN:
            return False
        self._seconds = max(min(self._seconds, lived_seconds * CUT_SHARE), SHORTEST_SECONDS)
        self._whole = 0
        self._whole_needed = min(2 * self._whole_needed, WHOLE_POLLS_MAX)
        return True
