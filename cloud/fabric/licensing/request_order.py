"""Pure functions: the order of the requests of a node without a network, by what the machine reports.

A request has no nonce of the cloud, so the cloud cannot date it. The machine reports its trusted time and the clock of
its TPM. A request counts as earlier only if both say so: a dead battery sets the time back, and a restored virtual
machine sets the TPM back. Such a machine has a later request that one of the two calls earlier.
"""

from datetime import datetime

import msgspec

from protocol.evidence import ClockInfo
from protocol.limits import CLOCK_SKEW


class Moment(msgspec.Struct, frozen=True):
    """A contact of a machine: its time (aware), and the clock of its TPM; None without a TPM."""

    at: datetime
    clock: ClockInfo | None


def is_earlier(made: Moment, other: Moment) -> bool:
    """Whether a request was made before another contact of the same node.

    Without a clock of the TPM the time decides alone, with a tolerance of CLOCK_SKEW: the other contact may have been a
    session, and its time is that of the cloud.
    """
    if made.clock is None or other.clock is None:
        return made.at < other.at - CLOCK_SKEW
    return made.at < other.at and _position(made.clock) < _position(other.clock)


def _position(clock: ClockInfo) -> tuple[int, int, int]:
    return clock.reset_count, clock.restart_count, clock.clock
