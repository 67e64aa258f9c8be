"""Pure functions: limits of sessions and activations by node, chip, code and source, in the memory of one process.

A use case asks after it has checked the proof or the code, so only the holder of a key or code uses up its own limit.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from cloud.contracts.breakwater import SESSIONS_PER_NODE
from cloud.fabric.errors import TooOften
from cloud.tasks.buckets import Buckets, Level, Rate, admit
from protocol.ids import NodeId, TenantId

SESSIONS_PER_TENANT = Rate(200_000, 0.1)
SESSIONS_WHOLE = Rate(400_000, 0.02)
"""200,000 nodes of a tenant may open a session after an outage, and 10 a second in the long run. A node opens three a
day. The record of a session has about 2 kB and stays for a month."""
CHALLENGES_PER_CHIP = Rate(20, 60.0)
"""Challenges of one code to one chip at one source. A machine needs one; more allow for interrupted attempts."""
CHALLENGES_PER_SOURCE = Rate(1_200, 5.0)
"""Challenges of one code to one source: a site of 600 machines activates at once and leaves half to other sites."""
CHALLENGES_PER_CODE = Rate(4_800, 1.25)
STORED_PERIOD = timedelta(seconds=CHALLENGES_PER_CODE.burst * CHALLENGES_PER_CODE.seconds)
"""The time after which a code's empty bucket is full again. Older challenges have no effect."""
STORED_READINGS = Rate(2, 60.0)
"""Readings of one code's challenges: at the start, at half of the bucket, and then one a minute. A reading returns up to
9,600 times."""


class SessionLimits:
    """Counts opened sessions by node, by tenant and in whole. `factor` multiplies the limits."""

    def __init__(self, factor: float = 1.0) -> None:
        self._factor = factor
        self._nodes, self._tenants, self._whole = Buckets(), Buckets(), Buckets()

    def count(self, tenant: TenantId, node: NodeId, now: datetime) -> None:
        """Count one session. Raises TooOften."""
        _require(
            [
                Level(self._nodes, node, SESSIONS_PER_NODE.times(self._factor)),
                Level(self._tenants, tenant, SESSIONS_PER_TENANT.times(self._factor)),
                Level(self._whole, "", SESSIONS_WHOLE.times(self._factor)),
            ],
            now,
            "too many sessions of this node were opened",
        )


class ActivationLimits:
    """Counts challenges by code, source and chip. The challenges of recoveries are counted by tenant instead of code.

    A hostile holder of a code with one chip leaves half of its source's and of the code's challenges to other machines.
    `factor` multiplies the limits.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self._factor = factor
        self._chips, self._sources, self._codes, self._readings = Buckets(), Buckets(), Buckets(), Buckets()

    def wants_stored(self, code: str, now: datetime) -> bool:
        """Return True if the caller should read the code's challenges from the database, for `count_stored`.

        They are read at the first challenge of the code in this process. Once half of the code's bucket is used, they
        are read once a minute, because other replicas may have added challenges.
        """
        rate = CHALLENGES_PER_CODE.times(self._factor)
        if code in self._codes and self._codes.used(code, rate, now.timestamp()) < rate.burst / 2:
            return False
        return admit([Level(self._readings, code, STORED_READINGS)], now.timestamp()) == 0

    @property
    def stored_max(self) -> int:
        """The most challenges of a code that are made in `STORED_PERIOD`."""
        return 2 * CHALLENGES_PER_CODE.times(self._factor).burst

    def count_stored(self, code: str, made_at: Sequence[datetime], now: datetime) -> None:
        """Count the stored challenges of a code, given by their times in order, unless they are counted already."""
        rate = CHALLENGES_PER_CODE.times(self._factor)
        self._codes.catch_up(code, rate, (each.timestamp() for each in made_at), now.timestamp())

    def count(self, code: str, source: str, ek_hash: str, now: datetime) -> None:
        """Count one challenge. `ek_hash` identifies the chip. Raises TooOften."""
        _require(
            [
                Level(self._chips, (code, source, ek_hash), CHALLENGES_PER_CHIP.times(self._factor)),
                Level(self._sources, (code, source), CHALLENGES_PER_SOURCE.times(self._factor)),
                Level(self._codes, code, CHALLENGES_PER_CODE.times(self._factor)),
            ],
            now,
            "too many challenges of this code were started",
        )


RECOVERIES_PER_SOURCE = Rate(60, 60.0)
"""Starts of recoveries from one source, before anything is known about them: a site whose machines all lost their disks.
A start that names an unknown node counts, so no caller finds ids of nodes by trying."""


class RecoveryLimits:
    """Counts starts of recoveries by source, before the named node is read. `factor` multiplies the limit."""

    def __init__(self, factor: float = 1.0) -> None:
        self._rate = RECOVERIES_PER_SOURCE.times(factor)
        self._sources = Buckets()

    def count(self, source: str, now: datetime) -> None:
        """Count one start. Raises TooOften."""
        _require([Level(self._sources, source, self._rate)], now, "too many recoveries were started")


def _require(levels: list[Level], now: datetime, why: str) -> None:
    wait = admit(levels, now.timestamp())
    if wait > 0:
        raise TooOften(why, wait)
