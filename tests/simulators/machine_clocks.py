"""Simulator: the clocks of one machine. Wall clock, boot clock, and the clock of its TPM, over power cuts and sleeps.

`true` is the real time. The machine does not know it. The TPM stores its clock every `SAVE_INTERVAL`, and
at an orderly end.
"""

from datetime import UTC, datetime, timedelta

from node.licensing.trusted_time import SAVE_INTERVAL, Clocks
from node.link.certificates import Window
from protocol.evidence import ClockInfo

START = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)
SAVE_MS = SAVE_INTERVAL // timedelta(milliseconds=1)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


class MachineClocks:
    """A machine that runs from `START`, with a right wall clock and a running TPM."""

    def __init__(self) -> None:
        self.true = START
        self.wall_error = timedelta(0)
        self.boot = timedelta(minutes=1)
        self.slept = timedelta(0)
        self.boots = 1
        self.tpm_ms = 5_000_000
        self.tpm_stored_ms = self.tpm_ms
        self.resets = 7
        self.safe = True
        self.powered = timedelta(0)
        """All time with power and awake since `START`."""

    def wall(self) -> datetime:
        """The wall clock."""
        return self.true + self.wall_error

    def clocks(self) -> Clocks:
        """The clocks, for `TrustedTime`."""
        return Clocks(self.wall, self._boot_seconds, self._awake_seconds)

    def _boot_seconds(self) -> float:
        return self.boot.total_seconds()

    def _awake_seconds(self) -> float:
        return (self.boot - self.slept).total_seconds()

    def tpm(self) -> ClockInfo:
        """A reading of the TPM's clock."""
        return ClockInfo(self.tpm_ms, self.resets, 0, self.safe)

    def run(self, duration: timedelta) -> None:
        """Let time pass while the machine runs."""
        self.true += duration
        self.boot += duration
        self.powered += duration
        self._tick(duration)

    def sleep(self, duration: timedelta, *, tpm_runs: bool = False) -> None:
        """Suspend the machine, and wake it up."""
        self.true += duration
        self.boot += duration
        self.slept += duration
        if tpm_runs:
            self._tick(duration)

    def reboot(self, off: timedelta = timedelta(0), *, clean: bool = True) -> None:
        """End the boot, leave the machine without power, and start it again."""
        self.true += off
        self.boot, self.slept = MINUTE, timedelta(0)
        self.true += MINUTE
        self.powered += MINUTE
        self.boots += 1
        self.resets += 1
        if clean:
            self.tpm_stored_ms = self.tpm_ms
        else:
            self.tpm_ms, self.safe = self.tpm_stored_ms, False
        self._tick(MINUTE)

    def set_wall(self, at: datetime) -> None:
        """Set the wall clock."""
        self.wall_error = at - self.true

    def _tick(self, duration: timedelta) -> None:
        self.tpm_ms += int(duration.total_seconds() * 1000)
        if self.tpm_ms - self.tpm_stored_ms >= SAVE_MS:
            self.tpm_stored_ms = self.tpm_ms - self.tpm_ms % SAVE_MS
            self.safe = True


def right_window() -> Window:
    """The times of a machine whose clock is right, and to which the cloud has signed a time in this boot."""
    now = datetime.now(UTC)
    return Window(now, now)
