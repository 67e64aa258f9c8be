"""Pure functions and in-memory state: trusted time. A wrong wall clock does not move it, and no user sets it back.

The agent knows two times:

- `low` is a time that has surely passed. Certificates and the published trust must not have ended at `low`. So a
  machine whose wall clock is ahead, or whose battery is empty, still reaches the cloud.
- `high` is the time at which a lease is judged. After the cloud has signed a time in this boot, `high` is that time
  plus the boot time that has passed since. Before, `high` is the wall clock, with two limits. It is never before the
  floor plus the powered time since. A step of the wall clock within a boot never moves it forward. There is one
  exception. A boot that began before the floor has shown that the machine has no clock (an empty coin cell). Its first
  wall clock from the floor on, and at most `FAR_AHEAD` after it, counts as the wall clock of the boot.

Both count from a floor (`TimeFloor`): the latest signed time, and the time for which the TPM was powered since. The
TPM's clock advances while the chip has power, also across reboots. No user of the machine can set it back.

Sources of signed times:

- The freshness of an answer over the node's nonce is a time of now (`TrustedTime.verified`).
- The freshness of an answer that was carried to the machine has passed, at most as long ago as the request is old
  (`TrustedTime.delivered`).
- `issued_at` of a verified statement has passed (`TrustedTime.passed`). A cloud whose clock was ahead can have signed
  a later time. So no such time counts beyond the signed time of the answer that brought the statement.
- The first floor is the later of the build time of the agent and the time in the activation file.

Limits. Time without power is unknown. So a lease under a wall clock that is held back lasts longer by the time for which
the machine had no power, and by the time for which it slept before a reboot. The TPM's clock may lose up to 70 minutes
at a power cut (`SAVE_INTERVAL`). `UNCLEAN_RESETS_MAX` such losses are free. Each later loss adds the 70 minutes to
`high`, until a signed time starts the count again. The owner of a TPM can set its clock forward (TPM2_ClockSet). That
ends a lease early, and a signed time corrects it. A TPM's clock may be slow by 15 % (`SURE_SHARE`), or be made slow by
its owner (TPM2_ClockRateAdjust). So a lease can last longer by 15 % of the powered time before the last boot. A signed
time that is itself far ahead ends the contact with the cloud, because every certificate has then ended at `low`.
`cascadia activate FILE` begins again with the time of the file.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple

import msgspec

from node.link.certificates import Window
from protocol.evidence import ClockInfo
from protocol.limits import CLOCK_SKEW

SAVE_INTERVAL = timedelta(milliseconds=2**22)
"""A TPM stores its clock at least this often. After a power cut the clock continues from the stored value (TPM 2.0
Library Part 2, 10.11.1 TPMS_CLOCK_INFO)."""
UNCLEAN_RESETS_MAX = 24
"""Resets of the TPM's clock that cost nothing since the last signed time. A site without a buffered power supply that
loses its power each day for three weeks is below it. 24 losses are at most 28 hours."""
SURE_SHARE = 17, 20
"""The share of the measured time that `low` counts. The rate of a powered TPM's clock is within 15 % of that of UTC (TPM
2.0 Library Part 1, section Clock of the chapter Timing Components; 33.3.6 in version 184). The reference implementation
lets its owner adjust the rate by up to 16.7 % (`CLOCK_ADJUST_LIMIT`). 85 % are below 1 / 1.167."""
FAR_AHEAD = timedelta(days=30)
"""A wall clock that is ahead of the floor by more, and that no signed time confirms in this boot, is suspect."""
POWERED_MS_MAX = 100 * 366 * 86_400_000
"""The longest powered time that counts: 100 years. It keeps a false clock inside the calendar."""
UNCLEAN_COUNT_MAX = 100_000
"""The largest count of losses. It keeps a false count of resets inside the calendar."""
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""No time is later. The bound keeps every sum of a time and a duration valid."""

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
Source = Literal["signed", "wall-clock", "floor"]
"""What `high` follows: a time that the cloud signed in this boot, the wall clock at the boot, or the floor."""


class TimeFloor(msgspec.Struct, frozen=True, kw_only=True):
    """The floor of trusted time. A signed record keeps it across reboots; its reader ignores fields of later versions.

    Attributes:
        signed_at: the latest signed time, aware. It has passed.
        powered_ms: the time for which the TPM had power since, by its clock, in milliseconds.
        clock: the TPM's clock and counters at which `powered_ms` ends; None before the first reading.
        unclean: the resets since `signed_at` at which the TPM's clock may have lost time.
    """

    signed_at: AwareTime
    powered_ms: Annotated[int, msgspec.Meta(ge=0, le=POWERED_MS_MAX)] = 0
    clock: ClockInfo | None = None
    unclean: Annotated[int, msgspec.Meta(ge=0, le=UNCLEAN_COUNT_MAX)] = 0


def first_floor(*passed: datetime) -> TimeFloor:
    """The floor of a machine without a record: the latest of some times that have passed, all aware."""
    return TimeFloor(signed_at=min(max(passed), LATEST))


def low_of(floor: TimeFloor) -> datetime:
    """The time that has surely passed at the reading of the floor."""
    return _plus(floor.signed_at, _sure(timedelta(milliseconds=floor.powered_ms)))


def least_high_of(floor: TimeFloor) -> datetime:
    """The earliest time at which a lease is judged at the reading of the floor: with all powered time and losses."""
    losses = max(floor.unclean - UNCLEAN_RESETS_MAX, 0) * SAVE_INTERVAL
    return _plus(floor.signed_at, timedelta(milliseconds=floor.powered_ms) + losses)


def observed(floor: TimeFloor, clock: ClockInfo) -> TimeFloor:
    """The floor after a reading of the clock of the node's own TPM.

    1. The powered time since the last reading is added.
    2. A count of resets that falls is a TPM that was put back from a backup, for example a virtual one. No time is
       added, because its clock then shows nothing about the time since. TPM2_Clear sets the count to 0 too, but also
       ends the node key.
    3. A reset is unclean if the clock is not `safe` after it (TPMS_CLOCK_INFO). Of several resets since the last reading
       only the last one can be judged, so the others count as unclean.
    """
    before = floor.clock
    if before is None:
        return msgspec.structs.replace(floor, clock=clock)
    put_back = clock.reset_count < before.reset_count
    powered = 0 if put_back else clock.clock - before.clock  # 1, 2
    resets = 1 if put_back else clock.reset_count - before.reset_count
    return TimeFloor(
        signed_at=floor.signed_at,
        powered_ms=min(floor.powered_ms + max(powered, 0), POWERED_MS_MAX),
        clock=clock,
        unclean=min(floor.unclean + (max(resets - 1, 0) if clock.safe else resets), UNCLEAN_COUNT_MAX),  # 3
    )


def signed(floor: TimeFloor, low: datetime, at: datetime, clock: ClockInfo | None) -> TimeFloor:
    """The floor after a signed time of now, `at`. `low` is the `low` of now. `clock` is the TPM's clock now; None if unknown.

    1. A time that is not after the last signed time changes nothing: the cloud's own clocks differ, or went back.
    2. A time before `low` by the clock skew at most changes nothing.
    3. A time further before `low` shows that the TPM's clock is fast or was set forward. The floor is then this time.
    4. Any other time is the new floor.
    """
    at = min(at, LATEST)
    if at <= floor.signed_at or low - CLOCK_SKEW <= at < low:  # 1, 2
        return floor
    return TimeFloor(signed_at=at, clock=clock)  # 3, 4


class Clocks(NamedTuple):
    """The clocks of a machine.

    Attributes:
        wall: the wall clock, aware.
        boot_seconds: seconds since the boot, with the time asleep (CLOCK_BOOTTIME).
        awake_seconds: seconds since the boot, without the time asleep (CLOCK_MONOTONIC).
    """

    wall: Callable[[], datetime]
    boot_seconds: Callable[[], float]
    awake_seconds: Callable[[], float]


class BootTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one boot knows about the time. A record in memory keeps it across restarts of the agent.

    Attributes:
        booted_at: the time of the boot by the wall clock, as the first start of the agent in this boot found it, or as
            the first right wall clock of a machine without a clock shows it.
        signed_at: the last signed time of this boot; None before the first.
        signed_boot_seconds: the seconds since the boot at which it was verified.
        low_at: `low` at that moment, or at the first start of the agent in this boot.
        low_awake_seconds: the seconds awake since the boot at which `low_at` was `low`.
        floor: the floor at that moment.
    """

    booted_at: AwareTime
    signed_at: AwareTime | None = None
    signed_boot_seconds: float = 0.0
    low_at: AwareTime
    low_awake_seconds: float
    floor: TimeFloor


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Trusted time at one instant.

    Attributes:
        low: the time that has surely passed.
        high: the time at which a lease is judged.
        least_high: the earliest `high`: the floor, the powered time since, and the losses of the TPM's clock.
        wall: the wall clock.
        source: what `high` follows.
        suspect: the wall clock differs from trusted time: it is behind, or far ahead.
    """

    low: datetime
    high: datetime
    least_high: datetime
    wall: datetime
    source: Source
    suspect: bool


class TrustedTime:
    """Trusted time in one run of the agent. No method waits, and none uses a disk or the TPM.

    Args:
        floor: the floor of the stored record, or `first_floor`.
        clocks: the clocks of the machine.
        boot: the record of this boot, if an earlier run of the agent left one.
    """

    def __init__(self, floor: TimeFloor, clocks: Clocks, boot: BootTime | None = None) -> None:
        self._clocks = clocks
        now, awake = clocks.boot_seconds(), clocks.awake_seconds()
        low = low_of(floor)
        if boot is not None and (boot.signed_boot_seconds > now or boot.low_awake_seconds > awake):
            boot = None
        # A floor with a later signed time was made in this boot without the record, by an activation. It may have
        # corrected a TPM's clock that was set forward, so the record's `low` counts no more.
        if boot is not None and boot.floor.signed_at >= floor.signed_at:
            low = max(low, _plus(boot.low_at, _sure(_seconds(awake - boot.low_awake_seconds))))
            floor = boot.floor if boot.floor.signed_at > floor.signed_at else floor
        self._floor = floor
        self._booted_at = _minus(clocks.wall(), now) if boot is None else boot.booted_at
        self._without_clock = _plus(self._booted_at, _seconds(now)) < _plus(low, -CLOCK_SKEW)
        self._signed = None if boot is None or boot.signed_at is None else (boot.signed_at, boot.signed_boot_seconds)
        self._reading: tuple[ClockInfo, float, float] | None = None
        self._low = (low, awake)
        self._least_high = (least_high_of(floor), now)
        self._boot = self._record()

    @property
    def boot(self) -> BootTime:
        """What this boot knows, for its record. Another signed time makes another value."""
        return self._boot

    @property
    def floor(self) -> TimeFloor:
        """The floor now, for the stored record."""
        clock, before = self._clock(asleep=False), self._floor.clock
        # After a sleep the computed clock may be behind. A clock that is stored too low would count time twice.
        if clock is None or (before is not None and clock.clock <= before.clock):
            return self._floor
        return observed(self._floor, clock)

    @property
    def kept(self) -> TimeFloor:
        """The floor now, for a machine whose TPM keeps no record. Without a TPM's clock it has the time awake."""
        floor = self.floor
        if floor.clock is not None:
            return floor
        share, of = SURE_SHARE
        powered = max((self.low() - floor.signed_at) * of // share, timedelta(0)) // timedelta(milliseconds=1)
        return msgspec.structs.replace(floor, powered_ms=min(powered, POWERED_MS_MAX))

    @property
    def confirmed(self) -> bool:
        """Whether the cloud has signed a time in this boot."""
        return self._signed is not None

    def low(self) -> datetime:
        """The time that has surely passed. The kernel takes the length of a sleep from the real-time clock of the
        machine, so a sleep does not count."""
        at, since = self._low
        return _plus(at, _sure(_seconds(self._clocks.awake_seconds() - since)))

    def least_high(self) -> datetime:
        """The earliest `high`, whatever the wall clock says."""
        at, since = self._least_high
        return max(_plus(at, _seconds(self._clocks.boot_seconds() - since)), self.low())

    def high(self) -> datetime:
        """The time at which a lease is judged."""
        return self._high()[0]

    def boot_seconds(self) -> float:
        """Seconds since the boot, with the time asleep."""
        return self._clocks.boot_seconds()

    def window(self) -> Window:
        """The times at which the dates of certificates are judged."""
        return Window(self.low(), self.high() if self.confirmed else None)

    def judged(self) -> Judged:
        """Trusted time now."""
        (high, source), low, least, wall = self._high(), self.low(), self.least_high(), self._clocks.wall()
        if self.confirmed:
            suspect = abs(wall - high) > CLOCK_SKEW
        else:
            behind = wall < _plus(low, -CLOCK_SKEW)
            suspect = behind or wall > _plus(high, CLOCK_SKEW) or wall > _plus(least, FAR_AHEAD)
        return Judged(low=low, high=high, least_high=least, wall=wall, source=source, suspect=suspect)

    def _high(self) -> tuple[datetime, Source]:
        now = self._clocks.boot_seconds()
        if self._signed is not None:
            at, since = self._signed
            return max(_plus(at, _seconds(now - since)), self.low()), "signed"
        wall, least = self._clocks.wall(), self.least_high()
        if self._without_clock and least <= wall <= _plus(least, FAR_AHEAD):
            self._booted_at, self._without_clock = _minus(wall, now), False
            self._boot = self._record()
        # A correction of the wall clock within the boot counts. A step forward moves nothing beyond the boot's time.
        wall = min(wall, _plus(self._booted_at, _seconds(now)))
        return (wall, "wall-clock") if wall > least else (least, "floor")

    def observe(self, clock: ClockInfo) -> None:
        """Take a reading of the clock of the node's own TPM."""
        self._reading = (clock, self._clocks.boot_seconds(), self._clocks.awake_seconds())
        self._floor = observed(self._floor, clock)
        self._raise(low_of(self._floor), least_high_of(self._floor))

    def verified(self, at: datetime) -> None:
        """Take a signed time of now: the verified freshness of an answer over our nonce.

        A time that is earlier than `high` by the clock skew at most does not change `high`, because each exchange takes
        some time. An earlier time corrects `high`.
        """
        at = min(at, LATEST)
        now, high, low = self._clocks.boot_seconds(), self.high(), self.low()
        if not self.confirmed or not high - CLOCK_SKEW <= at <= high:
            self._signed = (at, now)
        floor = signed(self._floor, low, at, self._clock(asleep=True))
        if floor is not self._floor:
            self._floor = floor
            self._low = (at, self._clocks.awake_seconds())
            self._least_high = (at, now)
        self._boot = self._record()

    def passed(self, at: datetime) -> None:
        """Take a signed time that has passed, perhaps long ago: `issued_at` of a verified statement.

        A time between `low` and the floor's earliest `high` does not become the floor. It would take back the measured
        time and the losses that a later boot counts in `high`.
        """
        at = min(at, LATEST)
        if at > self.low():
            if at >= least_high_of(self.floor):
                self._floor = signed(self._floor, self.low(), at, self._clock(asleep=True))
            self._raise(at, at)
            self._boot = self._record()

    def delivered(self, at: datetime, latest: datetime) -> None:
        """Take the signed time `at` of an answer that was carried here: now is between `at` and `latest`.

        1. `at` has passed.
        2. A `low` after `latest` shows that the TPM's clock is fast or was set forward. `latest` is then the time of now.
        3. A signed time of this boot stays in force.
        4. Otherwise the wall clock counts if it is between the two times, and `at` if it is not.
        """
        at = min(at, LATEST)
        latest = max(at, min(latest, LATEST))
        if self.low() > latest + CLOCK_SKEW:  # 2
            self.verified(latest)
            return
        self.passed(at)  # 1
        if not self.confirmed:  # 3, 4
            wall = self._clocks.wall()
            now = wall if at - CLOCK_SKEW <= wall <= latest + CLOCK_SKEW else at
            self._signed = (max(now, at), self._clocks.boot_seconds())
            self._boot = self._record()

    def _raise(self, low: datetime, least_high: datetime) -> None:
        self._least_high = (max(least_high, self.least_high()), self._clocks.boot_seconds())
        self._low = (max(low, self.low()), self._clocks.awake_seconds())

    def _record(self) -> BootTime:
        at, since = self._signed or (None, 0.0)
        return BootTime(
            booted_at=self._booted_at,
            signed_at=at,
            signed_boot_seconds=since,
            low_at=self.low(),
            low_awake_seconds=self._clocks.awake_seconds(),
            floor=self.floor,
        )

    def _clock(self, *, asleep: bool) -> ClockInfo | None:
        """The TPM's clock now: the last reading and the time since, with or without the time asleep.

        None without a reading in this run. A TPM may stop while the machine sleeps.
        """
        if self._reading is None:
            return None
        clock, boot, awake = self._reading
        elapsed = self._clocks.boot_seconds() - boot if asleep else self._clocks.awake_seconds() - awake
        return msgspec.structs.replace(clock, clock=clock.clock + int(max(elapsed, 0.0) * 1000))


def _plus(at: datetime, duration: timedelta) -> datetime:
    """A sum that stays inside the calendar."""
    try:
        return min(at + duration, LATEST)
    except OverflowError:
        return LATEST if duration > timedelta(0) else at


def _minus(at: datetime, seconds: float) -> datetime:
    try:
        return at - timedelta(seconds=seconds)
    except OverflowError:
        return at


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0.0), POWERED_MS_MAX / 1000))


def _sure(duration: timedelta) -> timedelta:
    share, of = SURE_SHARE
    return duration * share // of
