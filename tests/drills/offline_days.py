"""An agent without its cloud for 70 simulated days, in each tier: each date of the lease is met to the second.

The agent, the chip, the disk, the socket and the connections are real; the cloud is simulated, and the time is virtual
(`tests/simulators/virtual_days.py`). The leases have the default dates of their tier, and two entitlements. One of them
has a limit, and dates between the dates of the lease.

Each date of the lease and of the entitlements changes all answers in the second that the lease names, and not a second
before:

- `cascadia status --json` and `cascadia entitlement NAME --json`, as processes, with their exit codes (at the date);
- the socket's status, licence and entitlements: whether granted, limit, until, why, and the end of the answer;
- a program that asks for each entitlement before its last answer ends.

The cloud comes back once in each state, and the agent is active again.
"""

import argparse
import os
import runpy
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import trio

from lab.tpm import SoftTpm, shared_bus
from node.agent import Agent
from node.exits import Exit
from node.local.client import entitlement_path, expect, request
from node.local.documents import EntitlementDocument, LicenseDocument, StatusDocument
from protocol.limits import LICENSE_ANSWER_LIFE
from protocol.signed.lease import Lease, Tier
from tests.drills.frame import Figure, Outcome, Say
from tests.simulators.fabric import DAY
from tests.simulators.virtual_days import SLOT_SECONDS, VISION_LIMIT, VirtualSite

PROGRAM = runpy.run_path(str(Path(__file__).parents[2] / "demo" / "licensed_program.py"))
"""The sample of licensed software: its names, as a vendor's program has them."""
DENIED: str = PROGRAM["DENIED"]

USUAL_TIME = "4 min"
MINUTES_MAX = 60.0

TIERS: tuple[Tier, ...] = ("attested", "tpm", "software")
DATES = ("refresh_after", "expires_at", "grace_until", "terminate_at")
HOP_SECONDS = 6 * 3600
"""How far the time jumps at once while no date is near. The agent tries the cloud at least once after each jump."""
OFFLINE_DAYS = 70
BACK_SECONDS_MAX = 3 * SLOT_SECONDS
"""How long after the return of the cloud the agent may take to be active."""
NAMES = ("render", "vision", "other")
"""Entitlements: without terms, with terms, and a name that the lease does not have."""


class Stage(msgspec.Struct, frozen=True):
    """What the agent shows between two dates of the lease."""

    state: str
    gate: str
    new_work: bool
    exit_code: int


STAGES = (
    Stage("active", "open", new_work=True, exit_code=0),
    Stage("refresh-due", "open", new_work=True, exit_code=0),
    Stage("grace", "open", new_work=True, exit_code=0),
    Stage("restricted", "open", new_work=False, exit_code=0),
    Stage("terminated", "closed", new_work=False, exit_code=83),
)
"""Before the first date, and from each date on (the table of states in docs/agent.md)."""


class Granted(msgspec.Struct, frozen=True):
    """The answer about one entitlement."""

    why: str
    limit: int | None = None
    until: datetime | None = None
    attributes: dict[str, str] = {}

    @property
    def granted(self) -> bool:
        """Whether the entitlement is granted."""
        return self.why == "granted"

    @property
    def line(self) -> str:
        """What the licensed program prints."""
        if not self.granted:
            return DENIED
        return "granted" if self.limit is None else f"granted, limit {self.limit}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the tiers and the number of days."""
    parser.add_argument("--tier", choices=TIERS, action="append", help="only this tier (default: all)")
    parser.add_argument(
        "--days", type=float, default=OFFLINE_DAYS, help="days without the cloud (default: %(default)s)"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run each tier without its cloud."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-days-") as folder, ExitStack() as stack:
        directory = Path(folder)
        chips: list[SoftTpm] = []
        for tier in options.tier or TIERS:
            if tier != "software" and not chips:
                chips.append(stack.enter_context(SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus())))
            site = OfflineDays(directory / tier, "" if tier == "software" else chips[0].tcti, tier, say)
            site.run(options.days)
            figures |= site.figures
            findings += site.findings
    return Outcome(figures, tuple(findings))


class OfflineDays(VirtualSite):
    """One site that loses its cloud. With `commands` each answer is also asked for by the commands, as processes."""

    def __init__(self, directory: Path, tcti: str, tier: Tier, say: Say, *, commands: bool = True) -> None:
        super().__init__(directory, tcti, tier)
        self.findings: list[str] = []
        self.seconds = 0
        """Dates that were compared in their second, and in the second before."""
        self.asked = 0
        """Answers that were compared."""
        self._say = say
        self._commands = commands
        self._lines: dict[str, str] = {}
        """The last line of the licensed program, by entitlement."""

    @property
    def figures(self) -> dict[str, Figure]:
        """The measurements."""
        return {
            f"{self._tier}, dates met to the second": self.seconds,
            f"{self._tier}, answers compared": self.asked,
        }

    def run(self, days: float, first: int = 1) -> None:
        """Reach the dates number 1 to `first`, then 1 to `first` + 1 and so on; at the end stay away for the days."""
        try:
            trio.run(self._without_cloud, days, first, clock=self.time.clock)
        finally:
            self.tpm.close()

    async def _without_cloud(self, days: float, first: int) -> None:
        async with self.agent() as (agent, nursery):
            for name in NAMES[:2]:
                nursery.start_soon(self._licensed_program, name)
            for last in range(first, len(STAGES)):
                self.fabric.cut = "closed"
                await self._walk(agent, last)
                await self._come_back(agent, STAGES[last].state)
            if days:
                self.fabric.cut = "closed"
                began = self.time.now()
                await self._walk(agent, len(STAGES) - 1)
                while self.time.now() < began + days * DAY:
                    await self.jump(HOP_SECONDS)
                await self._compare(agent, STAGES[-1], f"day {days:g}")
                await self._come_back(agent, "terminated")
        self._say(f"{self._tier}: {self.seconds} dates, {self.asked} answers, {len(self.findings)} findings")

    async def _walk(self, agent: Agent, last: int) -> None:
        """From a lease without a passed date to the date number `last`."""
        lease = agent.licence.lease
        if lease is None:
            self._found("no lease")
            return
        for date in _dates(lease):
            if date > getattr(lease, DATES[last - 1]):
                break
            while (left := (date - self.time.now()).total_seconds()) > SLOT_SECONDS:
                await self.jump(min(left - SLOT_SECONDS / 2, HOP_SECONDS))
            await self.jump((date - self.time.now()).total_seconds() - 1)
            await self._compare(agent, _stage(lease, self.time.now()), f"a second before {date}")
            await self.jump(1)
            await self._compare(agent, _stage(lease, self.time.now()), f"{date}", commands=self._commands)
            self.seconds += 1

    async def _come_back(self, agent: Agent, state: str) -> None:
        self.fabric.cut = ""
        self.repository.refresh(self.time.now())
        waited = 0.0
        while agent.snapshot().verdict.state != "active" and waited < BACK_SECONDS_MAX:
            await self.jump(SLOT_SECONDS / 10)
            waited += SLOT_SECONDS / 10
        # A program that was denied asks again after a minute.
        await self.jump(LICENSE_ANSWER_LIFE.total_seconds())
        await self._compare(agent, STAGES[0], f"the cloud is back after {state}", commands=self._commands)

    # Answers

    async def _compare(self, agent: Agent, stage: Stage, when: str, *, commands: bool = False) -> None:
        """Compare every answer with the stage, and with the lease that the cloud has signed."""
        lease = agent.licence.lease
        if lease is None:
            self._found(f"{when}: no lease")
            return
        for path in ("/v1/status", "/v1/license"):
            reply = await request(self.socket, "GET", path)
            licence = reply.document["license"] if path == "/v1/status" else reply.document
            self._same(f"{when}: {path}", _stage_of(expect(reply, {200}, _KINDS[path]), path), stage)
            self._ends(f"{when}: {path}", licence, lease, "")
        for name in NAMES:
            reply, wanted = await request(self.socket, "GET", entitlement_path(name)), self._wanted(lease, stage, name)
            answer = expect(reply, {200, 403}, EntitlementDocument)
            self._same(f"{when}: {name}", (reply.status, _granted_of(answer)), (200 if wanted.granted else 403, wanted))
            self._ends(f"{when}: {name}", answer, lease, name)
            if name in self._lines:
                self._same(f"{when}: the program with {name}", self._lines[name], wanted.line)
        if commands:
            await self._compare_commands(lease, stage, when)

    async def _compare_commands(self, lease: Lease, stage: Stage, when: str) -> None:
        code, document = await self._command("status")
        self._same(f"{when}: cascadia status", (code, _stage_of(document, "/v1/status")), (stage.exit_code, stage))
        bound, away = datetime.fromisoformat(document["offline_bound_at"]), bool(self.fabric.cut)
        self._same(f"{when}: offline_bound_at", bound, lease.terminate_at)
        self._same(f"{when}: failures", document["failures"] > 0 and bool(document["last_failure"]), away)
        wanted = self._wanted(lease, stage, "vision")
        code, document = await self._command("entitlement", "vision")
        found = (code, _granted_of(document))
        self._same(f"{when}: cascadia entitlement", found, (0 if wanted.granted else int(Exit.DENIED), wanted))

    async def _command(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run `cascadia`. Returns its exit code and its document."""
        settings = {
            "CASCADIA_STATE_DIR": str(self.state_dir),
            "CASCADIA_SOCKET": str(self.socket),
            "CASCADIA_MODE": "development",
        }
        ended = await trio.run_process(
            [sys.executable, "-m", "node.cli", *arguments, "--json"],
            capture_stdout=True,
            check=False,
            env=os.environ | settings,
        )
        return ended.returncode, msgspec.json.decode(ended.stdout)

    def _wanted(self, lease: Lease, stage: Stage, name: str) -> Granted:
        """The answer about an entitlement now."""
        terms, now = lease.entitlement(name), self.time.now()
        until = terms.until if terms is not None else None
        if stage.gate == "closed":
            return Granted("gate-closed", until=until)
        if terms is None:
            return Granted("not-included")
        if until is None or terms.not_before is None:
            return Granted("granted")
        if now >= until:
            return Granted("ended", until=until)
        if now < terms.not_before:
            return Granted("not-yet", until=until)
        return Granted("granted", VISION_LIMIT, until, {"edition": "full"})

    def _ends(self, what: str, document: dict[str, Any], lease: Lease, name: str) -> None:
        """Compare the end of an answer: a minute from now, or the next date that changes the answer."""
        terms, now = lease.entitlement(name), self.time.now()
        dates = [getattr(lease, date) for date in DATES]
        if terms is not None and document["state"] != "terminated":
            dates += [date for date in (terms.not_before, terms.until) if date is not None]
        wanted = min([now + LICENSE_ANSWER_LIFE, *(date for date in dates if date > now)])
        self._same(f"{what}: valid_until", datetime.fromisoformat(document["valid_until"]), wanted)

    async def _licensed_program(self, name: str) -> None:
        """Do what `demo/licensed_program.py` does, in virtual time: ask before the last answer ends."""
        line, until = DENIED, self.time.now()
        while True:
            answer = await trio.to_thread.run_sync(PROGRAM["ask"], str(self.socket), name)
            if answer is not None:
                line, until = answer
            elif self.time.now() >= until:
                line = DENIED
            self._lines[name] = line
            await trio.sleep(max((until - self.time.now()).total_seconds(), 1))

    def _same(self, what: str, found: object, wanted: object) -> None:
        self.asked += 1
        if found != wanted:
            self._found(f"{what}: {found}, not {wanted}")

    def _found(self, text: str) -> None:
        self.findings.append(f"{self._tier}, {text}")
        self._say(self.findings[-1])


_KINDS: dict[str, type[StatusDocument] | type[LicenseDocument]] = {
    "/v1/status": StatusDocument,
    "/v1/license": LicenseDocument,
}


def _dates(lease: Lease) -> list[datetime]:
    """The dates at which an answer changes, in their order."""
    grants = filter(None, map(lease.entitlement, lease.names))
    terms = [date for grant in grants for date in (grant.not_before, grant.until) if date is not None]
    return sorted([*(getattr(lease, name) for name in DATES), *terms])


def _stage(lease: Lease, now: datetime) -> Stage:
    return STAGES[sum(now >= getattr(lease, name) for name in DATES)]


def _stage_of(document: dict[str, Any], path: str) -> Stage:
    licence = document["license"] if path == "/v1/status" else document
    return Stage(licence["state"], licence["gate"], licence["new_work"], licence["exit_code"])


def _granted_of(document: dict[str, Any]) -> Granted:
    until = document["until"]
    return Granted(
        document["why"],
        document["limit"],
        datetime.fromisoformat(until) if until else None,
        document["attributes"],
    )
