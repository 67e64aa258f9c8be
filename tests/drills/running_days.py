"""An agent with its cloud for seven simulated days: nothing grows, and the NV memory is written within its budget.

The agent, the chip, the disk, the socket and the connections are real; the cloud is simulated, and the time is virtual
(`tests/simulators/virtual_days.py`). The time jumps by 50 seconds, so every heartbeat (600 s) and every long poll (at
most 250 s) is made. A suspension, other dates of the lease, and a day with 40 leases happen meanwhile.

- After the first hour memory, live objects, descriptors, threads, tasks, and objects and sessions in the TPM stay flat.
- The commands that reach the TPM are read. The only command that writes NV memory is the increment of the floor counter.
  Its number is that of the counter and of `cascadia status`.
- Leases advance the counter at most 24 times a day, and after that once an hour. A suspension advances it at once.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import trio
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import TPM2_CAP, TPM2_CC

from cloud.fabric.lease_schemas import LeaseTerms
from lab.tpm import SoftTpm, shared_bus
from node.agent import Agent
from node.hwbind import counter
from node.licensing.floor_memory import label_of
from node.licensing.floors import RAISED_PER_DAY_MAX, entry_of
from tests.drills.flapping import sample
from tests.drills.frame import Figure, Outcome, Say
from tests.simulators.fabric import DAY
from tests.simulators.virtual_days import SLOT_SECONDS, VirtualSite

USUAL_TIME = "3 min"
MINUTES_MAX = 90.0

JUMP_SECONDS = 50
HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
DEVICE_LIFE = 8 * DAY
"""The life of a device certificate, so that one renewal is within the week."""
BUSY_LEASES = 40
BUSY_SPACING_SECONDS = 300
SETTLED_HOURS = 24
"""How long after the busy hours the last lease must be in the floor record."""
OTHER_TERMS = LeaseTerms(2 * DAY_SECONDS, 20 * DAY_SECONDS, 25 * DAY_SECONDS, 30 * DAY_SECONDS)

GROWTH_MAX = {
    "tasks": 2,
    "transient objects in the TPM": 0,
    "sessions in the TPM": 0,
    "persistent objects in the TPM": 0,
    "NV indices in the TPM": 0,
    "descriptors": 2,
    "threads": 3,
    "RSS, KiB": 4096,
    "live objects": 600,
    "allocated blocks": 3000,
}
"""Largest growth from the first hour to the last one. A leak of one object a heartbeat would be 1,000 objects."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of days."""
    parser.add_argument("--days", type=float, default=7.0, help="simulated days (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run one agent with its cloud."""
    with tempfile.TemporaryDirectory(prefix="cascade-days-") as folder:
        directory = Path(folder)
        with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            site = RunningDays(directory / "site", chip.tcti, say)
            site.run(options.days)
    return Outcome(site.figures, tuple(site.findings))


class RunningDays(VirtualSite):
    """One site with its cloud."""

    def __init__(self, directory: Path, tcti: str, say: Say) -> None:
        super().__init__(directory, tcti, "attested", DEVICE_LIFE)
        self.figures: dict[str, Figure] = {}
        self.findings: list[str] = []
        self._say = say
        # Not every sample is kept: 168 of them would look like a leak.
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._highest: dict[str, int] = {}
        self._busy: tuple[float, float] = (0.0, 0.0)

    def run(self, days: float) -> None:
        """Let the agent work for the days."""
        try:
            trio.run(self._with_cloud, days, clock=self.time.clock)
        finally:
            self.tpm.close()

    async def _with_cloud(self, days: float) -> None:
        async with self.agent() as (agent, _):
            label = label_of(agent.licence.identity.holder)
            await self.jump(JUMP_SECONDS)  # the floor is raised for the boot
            before, began, leases = await self._counted(label), self.time.seconds(), self.fabric.leases
            paths, status = Counter(self.fabric.paths), agent.status().floor.writes
            events = self._events(agent)
            for hour in range(int(days * 24) + 1):
                await self._sample(hour)
                self._refresh_repository(hour)
                for work in events.get(hour, ()):
                    await work()
                await self._pass(HOUR_SECONDS * (hour + 1) + began - self.time.seconds())
            if agent.snapshot().verdict.state != "active":
                self._found(f"the state is {agent.snapshot().verdict.state} at the end")
            for condition in agent.status().conditions:
                self._found(f"the condition {condition.code} at the end: {condition.text}")
            raised = await self._counted(label) - before
            self._judge_writes(agent, raised, agent.status().floor.writes - status, began, self.fabric.leases - leases)
            self._judge_contacts(self.fabric.paths - paths, self.time.seconds() - began)
        self._judge_samples()

    def _events(self, agent: Agent) -> dict[int, Sequence[Callable[[], Awaitable[None]]]]:
        """Hour -> what happens in it."""

        async def suspend() -> None:
            self.fabric.suspend()
            await self._pass(SLOT_SECONDS)
            self._must_be(agent, "suspended")

        async def resume() -> None:
            self.fabric.say(self.fabric.lease())
            await self._pass(SLOT_SECONDS)
            self._must_be(agent, "active")

        async def other_dates() -> None:
            self.fabric.terms = OTHER_TERMS
            await resume()
            lease = agent.licence.lease
            if lease is None or lease.terminate_at - lease.issued_at != 30 * DAY:
                self._found("the lease with other dates is not in use")

        async def busy() -> None:
            self._busy = (self.time.seconds(), self.time.seconds() + DAY_SECONDS)
            for _ in range(BUSY_LEASES):
                self.fabric.say(self.fabric.lease())
                await self._pass(BUSY_SPACING_SECONDS)
                self._must_be(agent, "active")

        async def settled() -> None:
            record, statement = agent.contact.saver.floors._record, agent.licence.statement
            entries = record.streams["statement"] if record is not None else ()
            if statement is None or entry_of(statement) not in entries:
                self._found(
                    f"the floor record does not have the present lease {SETTLED_HOURS} hours after the busy day"
                )

        return {
            30: (suspend,),
            31: (resume,),
            50: (other_dates,),
            80: (busy,),
            84 + SETTLED_HOURS: (settled,),
        }  # fmt: skip

    async def _pass(self, seconds: float) -> None:
        until = self.time.seconds() + seconds
        while (left := until - self.time.seconds()) > 0:
            await self.jump(min(JUMP_SECONDS, left))

    def _refresh_repository(self, hour: int) -> None:
        """Sign the online roles of the repository again each day, as its cloud does."""
        if hour % 24 == 0:
            self.repository.refresh(self.time.now())
        self.repository.requests.clear()

    # Judgements

    def _must_be(self, agent: Agent, state: str) -> None:
        found = agent.snapshot().verdict.state
        if found != state:
            self._found(f"the state is {found}, not {state}")

    def _judge_writes(self, agent: Agent, raised: int, reported: int, began: float, leases: int) -> None:
        """Compare the counter, the status and the commands with each other and with the budget of a day."""
        floor = agent.status().floor
        writes = [(at, code) for at, code in self.nv_writes if at >= began]
        at = [second for second, code in writes if code == int(TPM2_CC.NV_Increment)]
        per_day = [sum(first <= one < first + DAY_SECONDS for one in at) for first in at]
        busy = sum(self._busy[0] <= one < self._busy[1] for one in at)
        self.figures |= {
            "leases signed": leases,
            "floor counter raised": raised,
            "NV writes that the TPM got": len(writes),
            "NV writes that the status reports": reported,
            "NV writes in the busiest 24 hours": max(per_day, default=0),
            "leases and NV writes of the busy day": f"{BUSY_LEASES}, {busy}" if self._busy[1] else "none",
            "NV writes a day, by the status": floor.writes_per_day,
            "years left, by the status": floor.years_left,
            "commands to the TPM": sum(self.commands.values()),
        }
        if not raised == reported == len(at) == len(writes):
            self._found(
                f"the counter was raised by {raised}; the status reports {reported} writes; the TPM got {len(at)} "
                f"increments and {len(writes) - len(at)} other writes"
            )
        if raised > leases + 2:
            self._found(f"the floor counter was raised {raised} times for {leases} leases and a suspension")
        # Beyond the bound of a day, leases advance the counter once an hour. One suspension advances it at once.
        for one, before, first in zip(at[RAISED_PER_DAY_MAX:], at[RAISED_PER_DAY_MAX - 1 :], at, strict=False):
            if one - first < DAY_SECONDS and one - before < HOUR_SECONDS:
                self._found(f"an increment at {one:.0f} s is above the bound of {RAISED_PER_DAY_MAX} a day")

    def _judge_contacts(self, paths: Counter[str], seconds: float) -> None:
        """Compare the requests that the cloud got with the heartbeats of the time."""
        statements = sum(number for path, number in paths.items() if path.endswith("/node/statement"))
        sessions = sum(number for path, number in paths.items() if path.endswith("/node/sessions"))
        polls = sum(number for path, number in paths.items() if path.endswith("/node/events"))
        renewals = sum(number for path, number in paths.items() if path.endswith("/simplereenroll"))
        self.figures |= {"statements asked for": statements, "sessions": sessions, "long polls": polls}
        self.figures |= {"device certificates renewed": renewals, "days": round(seconds / DAY_SECONDS, 2)}
        if statements + sessions < seconds / SLOT_SECONDS - 2:
            self._found(
                f"{statements} questions and {sessions} sessions are fewer than the heartbeats of {seconds:.0f} s"
            )
        if polls < seconds / 300:
            self._found(f"{polls} long polls are too few for {seconds:.0f} s")

    def _judge_samples(self) -> None:
        for name, more in GROWTH_MAX.items():
            first, last = self._first[name], self._last[name]
            self.figures[f"{name}: hour 1, last, highest"] = f"{first}, {last}, {self._highest[name]}"
            if last > first + more:
                self._found(f"{name} grew from {first} to {last}")

    def _found(self, text: str) -> None:
        self.findings.append(text)
        self._say(text)

    # Measurements

    async def _counted(self, label: str) -> int:
        """The value of the floor counter in the TPM; 0 without one."""
        found = await self.tpm.run(lambda esys: counter.find(esys, label))
        return found.value if found is not None else 0

    async def _sample(self, hour: int) -> None:
        """Measure the process and the TPM, after a collection of garbage."""

        def count(esys: ESAPI, first: int) -> int:
            _, capability = esys.get_capability(TPM2_CAP.HANDLES, first, 64)
            handles = capability.data.handles
            return sum(int(handles[at]) >> 24 == first >> 24 for at in range(int(handles.count)))

        kinds = {
            "transient objects in the TPM": 0x80000000,
            "sessions in the TPM": 0x02000000,
            "persistent objects in the TPM": 0x81000000,
            "NV indices in the TPM": 0x01000000,
        }
        found = await self.tpm.run(lambda esys: {name: count(esys, first) for name, first in kinds.items()})
        gc.collect()
        measured = sample(os.getpid())
        self._last = found | {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "descriptors": measured.descriptors,
            "threads": measured.threads,
            "RSS, KiB": measured.rss_kib,
            "live objects": len(gc.get_objects()),
            "allocated blocks": sys.getallocatedblocks(),
        }
        if hour <= 1:
            self._first = self._last
        else:
            self._highest = {name: max(value, self._highest.get(name, 0)) for name, value in self._last.items()}
        if hour % 6 == 0:
            self._say(f"hour {hour}: {msgspec.json.encode(self._last).decode()}")
