"""Pure: how long to wait after failures."""

from collections.abc import Callable

BACK_OFF_SECONDS_FIRST = 0.5


BACK_OFF_SECONDS_MAX = 10.0
"""After a failed call to Breakwater; full jitter below it. Short, since one Fabric asks one Breakwater."""


class BackOff:
    """When Breakwater may be asked again, in seconds of a monotonic clock."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._failures = 0
        self.ready_at = 0.0

    def failed(self, at: float) -> None:
        """Wait longer, up to the cap, spread over the whole of it."""
        cap = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_FIRST * 2 ** min(self._failures, 16))
        self._failures += 1
        self.ready_at = at + cap * (1 + int.from_bytes(self._entropy(2), "big")) / 65536

    def worked(self) -> None:
        """Ask at once the next time."""
        self._failures = 0
        self.ready_at = 0.0
