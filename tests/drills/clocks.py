"""Every wrong wall clock on real commands and a real cloud: steps, boots in 1970 or ahead, both sides of each date.

A preloaded library shifts the wall clock of the agent's processes, also that of OpenSSL and TUF. The other clocks of the
kernel stay. `tests/node/test_clocks.py` has one row of each kind, and the rows that need other clocks: a suspended
machine and a slow clock.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import StepFailed, ended, wait_until
from lab.tpm import SoftTpm, shared_bus
from node.exits import Exit
from node.licensing.boot_time import RECORD
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.harness import new_cloud

USUAL_TIME = "3 min"
MINUTES_MAX = 20.0
DAY = 86_400
CLOCKS = {"back 30 days": -30 * DAY, "forward 400 days": 400 * DAY, "1970": 0, "right": 0}
LEASE_SECONDS = (DAY, 10 * DAY, 20 * DAY, 25 * DAY)
"""All dates are within the 30 days after which a clock is suspect."""
DATES = ("refresh_after", "expires_at", "grace_until", "terminate_at")
STATES = ("active", "refresh-due", "grace", "restricted", "terminated")
SIDE_SECONDS = 300
"""How far from a date the machine boots."""

_SOURCE = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    const char *path = getenv("CLOCK_SHIFT_FILE");
    char text[32];
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    if (size <= 0) return 0;
    text[size] = 0;
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, clock, at);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of rows."""
    parser.add_argument("--only", default="", help="take the rows whose name has this text (default: all)")


class Table:
    """The rows, on one machine and one cloud."""

    def __init__(self, directory: Path, cloud: Cloud, chip: SoftTpm) -> None:
        self.cloud, self.chip = cloud, chip
        self.machine = Machine(directory, chip)
        self.shift = directory / "shift"
        self.machine.env |= {"LD_PRELOAD": str(_library(directory)), "CLOCK_SHIFT_FILE": str(self.shift)}
        self.tenant = cloud.tenant(chip)
        self.set(0)

    def set(self, seconds: float) -> None:
        """Set the wall clock wrong by some seconds."""
        self.shift.write_text(str(int(seconds)))

    def activate(self) -> None:
        """Activate the machine, or activate it again."""
        options = ("--lease-seconds", ",".join(map(str, LEASE_SECONDS)))
        self.machine.run("activate", str(self.cloud.code(self.tenant, *options)))

    def boot(self) -> None:
        """Start the agent as in a new boot."""
        self.machine.down()
        (self.machine.socket.parent / RECORD).unlink(missing_ok=True)
        self.machine.up()

    def expect(self, state: str, code: Exit, *, suspect: bool) -> None:
        """Compare the status with the expected one. Raises StepFailed."""
        document = self.machine.run("status", expect=None)
        found = document["license"]
        shown = (found["state"], found["exit_code"], "clock-suspect" in found["flags"])
        if shown != (state, int(code), suspect):
            raise StepFailed(f"the status is {shown}, and {(state, int(code), suspect)} was expected")

    def contact(self) -> None:
        """Renew over the cloud, whatever the clock is. Raises StepFailed."""
        self.machine.run("renew")

    def lease(self) -> dict[str, Any]:
        """The lease of the machine."""
        return dict(self.machine.run("status", expect=None)["license"]["lease"])

    # Rows

    def activates(self, seconds: float) -> None:
        """A machine with this clock activates."""
        self.machine.down()
        self.set(seconds)
        self.activate()
        self.set(0)

    def steps_while_it_runs(self, seconds: float) -> None:
        """The clock steps while the machine runs, with the cloud and without."""
        self.machine.down()
        self.set(0)
        self.boot()
        wait_until("a signed time", lambda: self.source() == "signed")
        wrong = abs(seconds) > 1
        self.set(seconds)
        self.expect("active", Exit.OK, suspect=wrong)
        self.contact()
        self.expect("active", Exit.OK, suspect=wrong)
        with self.cloud_away():
            self.expect("active", Exit.OK, suspect=wrong)
            self.machine.down()
            self.machine.up()
            self.expect("active", Exit.OK, suspect=wrong)

    def boots_offline(self, seconds: float) -> None:
        """The machine boots with this clock and without the cloud. Then the cloud comes back."""
        ahead, wrong = seconds > 1, abs(seconds) > 1
        with self.cloud_away():
            self.set(seconds)
            self.boot()
            if ahead:
                self.expect("terminated", Exit.CLOCK, suspect=True)
                self.set(0)
                self.expect("active", Exit.OK, suspect=False)
                self.set(seconds)
                self.expect("terminated", Exit.CLOCK, suspect=True)
            else:
                self.expect("active", Exit.OK, suspect=wrong)
        self.contact()
        self.expect("active", Exit.OK, suspect=wrong)
        self.set(0)
        self.expect("active", Exit.OK, suspect=False)

    def both_sides_of(self, date: str) -> None:
        """The machine boots on each side of a date, and its clock steps over the date and back."""
        place = DATES.index(date)
        before, after = STATES[place], STATES[place + 1]
        self.set(0)
        self.boot()
        self.contact()
        at = datetime.fromisoformat(str(self.lease()[date])).timestamp() - datetime.now(UTC).timestamp()
        ends = Exit.TERMINATED if after == "terminated" else Exit.OK
        with self.cloud_away():
            self.set(at - SIDE_SECONDS)
            self.boot()
            self.expect(before, Exit.OK, suspect=False)
            self.set(at + SIDE_SECONDS)
            self.expect(before, Exit.OK, suspect=True)
            self.boot()
            self.expect(after, ends, suspect=False)
            self.set(at - SIDE_SECONDS)
            self.expect(before, Exit.OK, suspect=False)
            self.set(at + SIDE_SECONDS)
            self.expect(after, ends, suspect=False)
        self.set(0)

    def source(self) -> str:
        """The source of trusted time."""
        document = self.machine.ask("/v1/status")
        return str(document["time"]["source"]) if document and document["time"] else ""

    def cloud_away(self) -> "_Away":
        """A block without the cloud."""
        return _Away(self.cloud)

    def rows(self) -> dict[str, Callable[[], None]]:
        """All rows by name."""
        epoch = -time.time() + 1
        clocks = CLOCKS | {"1970": epoch}
        rows: dict[str, Callable[[], None]] = {}
        for name, seconds in clocks.items():
            rows[f"activates: {name}"] = partial(self.activates, seconds)
        for name, seconds in clocks.items():
            rows[f"steps while it runs: {name}"] = partial(self.steps_while_it_runs, seconds)
            rows[f"boots offline: {name}"] = partial(self.boots_offline, seconds)
        for date in DATES:
            rows[f"both sides of {date}"] = partial(self.both_sides_of, date)
        return rows


class _Away:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def __enter__(self) -> None:
        self._cloud.down()

    def __exit__(self, *_: object) -> None:
        self._cloud.up()


def _library(directory: Path) -> Path:
    """The library that shifts the wall clock. Raises CannotRun without a C compiler."""
    source, library = directory / "shift.c", directory / "shift.so"
    source.write_text(_SOURCE)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotRun(f"cannot compile the shifted clock: {error}") from error
    return library


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every row. A row that fails is a finding, and the other rows continue."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-clocks-") as folder:
        directory = Path(folder)
        chip = SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus())
        chip.manufacture()
        cloud = new_cloud(directory).init()
        with ended(cloud), chip:
            cloud.up()
            table = Table(directory, cloud, chip)
            with ended(table.machine):
                table.activate()
                for name, row in table.rows().items():
                    if options.only not in name:
                        continue
                    begun = time.monotonic()
                    try:
                        row()
                    except StepFailed as error:
                        findings.append(f"{name}: {error}")
                        say(f"FOUND {findings[-1]}")
                        table.set(0)
                    figures[name] = "failed" if findings and findings[-1].startswith(name) else "as expected"
                    say(f"{time.monotonic() - begun:.1f} s  {name}")
    return Outcome(figures, tuple(findings))
