"""Rows: wrong wall clocks. Steps while the machine runs, boots in 1970 or ahead, both sides of each date of the lease.

`tests/node/test_clocks.py` has the rows that need other clocks: a suspended machine and a slow clock.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from lab.processes import StepFailed, ended, wait_until
from node.exits import Exit
from tests.system.support.attacks.life import Life, Step
from tests.system.support.attacks.shifted import ShiftedMachine, library
from tests.system.support.attacks.site import Result, Seen, Site, judged
from tests.system.support.attacks.table import Attack

DAY = 86_400
LEASE_SECONDS = (DAY, 10 * DAY, 20 * DAY, 25 * DAY)
"""All dates are within the 30 days after which a clock is suspect."""
DATES = ("refresh_after", "expires_at", "grace_until", "terminate_at")
STATES = ("active", "refresh-due", "grace", "restricted", "terminated")
SIDE_SECONDS = 300
"""How far from a date the machine boots."""


def wrong_clocks() -> dict[str, float]:
    """The errors of the clock in seconds, by their names in the table."""
    return {"right": 0, "back 30 days": -30 * DAY, "forward 400 days": 400 * DAY, "1970": -time.time() + 1}


class Clocks:
    """The rows, on one machine and one cloud."""

    def __init__(self, site: Site, machine: ShiftedMachine) -> None:
        self.cloud, self.machine = site.cloud, machine
        self.tenant = site.cloud.tenant(machine.chip, "clocks")

    def activate(self) -> None:
        """Activate the machine, or activate it again."""
        options = ("--lease-seconds", ",".join(map(str, LEASE_SECONDS)))
        self.machine.run("activate", str(self.cloud.code(self.tenant, *options)))

    def expect(self, state: str, code: Exit, *, suspect: bool) -> Seen:
        """Compare the status with the expected one. Raises StepFailed."""
        process = self.machine.start("status", "--json")
        exited = process.wait()
        found = process.out()["license"]
        shown = (found["state"], exited, "clock-suspect" in found["flags"])
        if shown != (state, int(code), suspect):
            raise StepFailed(f"the status is {shown}, and {(state, int(code), suspect)} was expected")
        return Seen(state, exited)

    def contact(self) -> None:
        """Renew over the cloud, whatever the clock is. Raises StepFailed."""
        self.machine.run("renew")

    def lease(self) -> dict[str, Any]:
        """The lease of the machine."""
        return dict(self.machine.run("status", expect=None)["license"]["lease"])

    @contextmanager
    def cloud_away(self) -> Iterator[None]:
        """A block without the cloud."""
        self.cloud.down()
        try:
            yield
        finally:
            self.cloud.up()

    def activates(self, seconds: float) -> Seen:
        """A machine with this clock activates."""
        self.machine.down()
        self.machine.set(seconds)
        self.activate()
        self.machine.set(0)
        return self.expect("active", Exit.OK, suspect=False)

    def steps_while_it_runs(self, seconds: float) -> Seen:
        """The clock steps while the machine runs, with the cloud and without."""
        self.machine.down()
        self.machine.set(0)
        self.machine.boot()
        wait_until("a signed time", lambda: self._source() == "signed")
        wrong = abs(seconds) > 1
        self.machine.set(seconds)
        self.expect("active", Exit.OK, suspect=wrong)
        self.contact()
        self.expect("active", Exit.OK, suspect=wrong)
        with self.cloud_away():
            self.expect("active", Exit.OK, suspect=wrong)
            self.machine.down()
            self.machine.up()
            return self.expect("active", Exit.OK, suspect=wrong)

    def boots_offline(self, seconds: float) -> Seen:
        """The machine boots with this clock and without the cloud. Then the cloud comes back."""
        wrong = abs(seconds) > 1
        with self.cloud_away():
            self.machine.set(seconds)
            self.machine.boot()
            if seconds > 1:
                self.expect("terminated", Exit.CLOCK, suspect=True)
                self.machine.set(0)
                self.expect("active", Exit.OK, suspect=False)
                self.machine.set(seconds)
                seen = self.expect("terminated", Exit.CLOCK, suspect=True)
            else:
                seen = self.expect("active", Exit.OK, suspect=wrong)
        self.contact()
        self.expect("active", Exit.OK, suspect=wrong)
        self.machine.set(0)
        self.expect("active", Exit.OK, suspect=False)
        return seen

    def both_sides_of(self, date: str) -> Seen:
        """The machine boots on each side of a date, and its clock steps over the date and back."""
        place = DATES.index(date)
        before, after = STATES[place], STATES[place + 1]
        self.machine.set(0)
        self.machine.boot()
        self.contact()
        at = datetime.fromisoformat(str(self.lease()[date])).timestamp() - datetime.now(UTC).timestamp()
        ends = Exit.TERMINATED if after == "terminated" else Exit.OK
        with self.cloud_away():
            self.machine.set(at - SIDE_SECONDS)
            self.machine.boot()
            self.expect(before, Exit.OK, suspect=False)
            self.machine.set(at + SIDE_SECONDS)
            self.expect(before, Exit.OK, suspect=True)
            self.machine.boot()
            self.expect(after, ends, suspect=False)
            self.machine.set(at - SIDE_SECONDS)
            self.expect(before, Exit.OK, suspect=False)
            self.machine.set(at + SIDE_SECONDS)
            seen = self.expect(after, ends, suspect=False)
        self.machine.set(0)
        return seen

    def _source(self) -> str:
        """The source of trusted time."""
        document = self.machine.ask("/v1/status")
        return str(document["time"]["source"]) if document and document["time"] else ""


_BY_CLOCK: dict[str, Callable[[Clocks, float], Seen]] = {
    "activates": Clocks.activates,
    "steps while it runs": Clocks.steps_while_it_runs,
    "boots offline": Clocks.boots_offline,
}


def rows() -> dict[str, Callable[[Clocks], Seen]]:
    """All rows by name."""
    made: dict[str, Callable[[Clocks], Seen]] = {}
    for verb, row in _BY_CLOCK.items():
        made |= {f"{verb}: {name}": partial(_at, row, seconds) for name, seconds in wrong_clocks().items()}
    return made | {f"steps over {date} and back": partial(_over, date) for date in DATES}


def _at(row: Callable[[Clocks, float], Seen], seconds: float, clocks: Clocks) -> Seen:
    return row(clocks, seconds)


def _over(date: str, clocks: Clocks) -> Seen:
    return clocks.both_sides_of(date)


def _boots_ahead(life: Life) -> ShiftedMachine:
    """A machine with the directory, which has just booted 400 days ahead."""
    ahead = ShiftedMachine(life.directory, life.machine.chip, None, "ahead")
    shutil.copytree(life.state, ahead.state)
    ahead.set(wrong_clocks()["forward 400 days"])
    return ahead


STEPS: dict[str, Step] = {"boots offline: forward 400 days": Step("active", _boots_ahead)}
"""Rows for `make test`: `cascadia status` judges without an agent. A whole run starts agents on a machine of its own."""


def take(attacks: Sequence[Attack], site: Site) -> Iterator[Result]:
    """Take the rows on one machine. A row that stops leaves a right clock to the next row."""
    directory = site.folder("clocks")
    made = rows()
    with site.new_chip(directory / "chip", 0) as chip:
        machine = ShiftedMachine(directory, chip, library(directory))
        machine.env["CASCADIA_SETTLE_SECONDS"] = "1"
        with ended(machine):
            clocks = Clocks(site, machine)
            clocks.activate()
            for attack in attacks:
                yield judged(attack, partial(made[attack.name], clocks))
                machine.set(0)
