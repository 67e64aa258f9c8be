"""Pure functions: limit how many renewals may be started, before any query.

A process counts starts for each certificate and in total. Anyone can make a certificate in any node's name. So
certificates that no published CA signed have a separate total, and cannot use up the places of real certificates.
"""

from datetime import datetime, timedelta

from cloud.fabric.errors import TooManyChallenges
from cloud.tasks.tally import Tally

STARTS_PER_CERTIFICATE_MAX = 10
STARTS_MAX = 1200
STARTS_PERIOD = timedelta(minutes=1)
"""Starts that one process accepts in STARTS_PERIOD, for one certificate and in total. Twenty a second admit a quarter
of a million machines in the four hours after a long outage."""
_PROVEN, _CLAIMED = "proven", "claimed"
"""Keys of the two totals. They differ from the keys of certificates, which contain a dot."""


class RenewalStarts:
    """Counts the starts of renewals. A restart sets the counts to zero, which is harmless."""

    def __init__(self, starts_max: int = STARTS_MAX) -> None:
        """`starts_max`: the limit of each total in one `STARTS_PERIOD`."""
        self.starts_max = starts_max
        # Each start counts for a certificate and for a total. Their periods may begin at different times, so up to two
        # periods' worth of certificates can be counted at a time.
        self._tally: Tally[str] = Tally(STARTS_PERIOD, 2 * starts_max + 2)

    def count(self, proven: str, now: datetime) -> None:
        """Count one start. A refused start is not counted. Raises TooManyChallenges.

        `proven` identifies the certificate if a published CA signed it, else it is empty.
        """
        self._tally.end_all(now)
        total = self.starts_max
        bounds = {proven: STARTS_PER_CERTIFICATE_MAX, _PROVEN: total} if proven else {_CLAIMED: total}
        if any(self._tally.count(key, now) >= most for key, most in bounds.items()):
            raise TooManyChallenges("too many renewals were started in the last minute")
        for key in bounds:
            self._tally.add(key, now)
