"""Pure functions: the pause after a failure."""

from collections.abc import Callable

_DOUBLINGS_MAX = 16


class BackOff:
    """Computes when failed work may be tried again, in seconds of a monotonic clock.

    The pause after the first failure is `seconds_first`. It doubles with each further failure, up to `seconds_max`.
    With `entropy`, each pause is chosen at random between zero and this value, so that many callers do not return at
    once.
    """

    def __init__(self, seconds_first: float, seconds_max: float, entropy: Callable[[int], bytes] | None = None) -> None:
        self._seconds_first = seconds_first
        self._seconds_max = seconds_max
        self._entropy = entropy
        self._failures = 0
        self.failed_at = 0.0
        self.ready_at = 0.0

    def failed(self, at: float) -> float:
        """Count a failure at the time `at`, and return the pause until the next try, in seconds."""
        pause: float = min(self._seconds_max, self._seconds_first * 2 ** min(self._failures, _DOUBLINGS_MAX))
        if self._entropy is not None:
            pause *= (1 + int.from_bytes(self._entropy(2), "big")) / 65536
        self._failures += 1
        self.failed_at = at
        self.ready_at = at + pause
        return pause

    def worked(self) -> None:
        """Forget the failures: the next try may be made at once."""
        self._failures = 0
        self.failed_at = self.ready_at = 0.0
