"""Pure: bounds of how many renewals may be asked for, checked before the database is.

A process counts for one certificate and in all. Certificates that no published CA signed, which anybody can make in any
node's name, have a count in all of their own: they take nobody else's place.
"""

from datetime import datetime, timedelta

from cloud.fabric.errors import TooManyChallenges
from cloud.tasks.tally import Tally

STARTS_PER_CERTIFICATE_MAX = 10
STARTS_MAX = 1200
STARTS_PERIOD = timedelta(minutes=1)
"""What one process lets through to the database in such a time, for one certificate and in all: twenty a second are a
quarter of a million machines in the four hours after a long outage."""
_PROVEN, _CLAIMED = "proven", "claimed"
"""The counts in all; the name of a certificate has a dot."""


class RenewalStarts:
    """Counts the renewals that were asked for. A restart starts at zero, which is harmless."""

    def __init__(self) -> None:
        # A certificate is counted together with the count in all, whose period may begin in the middle of another.
        self._tally: Tally[str] = Tally(STARTS_PERIOD, 2 * STARTS_MAX + 2)

    def count(self, proven: str, now: datetime) -> None:
        """Count one; `proven` names the certificate if a published CA signed it, else it is empty.

        Who is refused takes no place. Raises TooManyChallenges.
        """
        self._tally.end_all(now)
        bounds = {proven: STARTS_PER_CERTIFICATE_MAX, _PROVEN: STARTS_MAX} if proven else {_CLAIMED: STARTS_MAX}
        if any(self._tally.count(key, now) >= most for key, most in bounds.items()):
            raise TooManyChallenges("too many renewals are asked for")
        for key in bounds:
            self._tally.add(key, now)
