"""An agent without its cloud for 70 simulated days, in each tier, and an agent with its cloud for seven.

The agent, the chip, the disk and the connections are real; the cloud is simulated, and the time is virtual: it does
not move while anything works, and then jumps to the next heartbeat slot or date.

- Without the cloud each date of the lease changes state, gate, exit code, entitlement and new work in the second that
  the lease names, and not a second before. The cloud comes back once in each state, and the agent is active again.
- With the cloud nothing grows after the first hour: memory, descriptors, tasks, threads, objects in the TPM. The floor
  counter of the TPM moves at most as often as the statement changes, and once for the boot.
"""

import argparse
import contextlib
import gc
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import msgspec
import trio
import trio.testing
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import TPM2_CAP

from lab.tpm import SoftTpm, shared_bus
from node.agent import Agent
from node.config import Config
from node.disk import thread
from node.exchanges.activation import activate
from node.hwbind import counter, reading
from node.hwbind.fingerprint import Components, Reasons
from node.hwbind.tpm import Tpm
from node.licensing.raising import label_of
from node.link.connect import network_limiter
from node.state import State
from tests.drills.flapping import FlappingFabric, sample
from tests.drills.frame import Figure, Outcome, Say
from tests.simulators import fabric as simulator
from tests.simulators import software_cloud
from tests.simulators.fabric import DAY
from tests.simulators.site import repository_of, write_activation_file
from tests.simulators.software_cloud import SoftwareCloud

USUAL_TIME = "10 min"
MINUTES_MAX = 60.0

TIERS = {"attested": (7, 30, 45, 60), "tpm": (5, 20, 30, 45), "software": (2, 10, 14, 21)}
"""Tier -> days from the issue of a lease to `refresh_after`, `expires_at`, `grace_until` and `terminate_at`."""
DATES = ("refresh_after", "expires_at", "grace_until", "terminate_at")
SLOT_SECONDS = 600
HOP_SECONDS = 6 * 3600
"""How far the time jumps at once while no date is near. The agent tries the cloud at least once after each jump."""
OFFLINE_DAYS = 70
BACK_SECONDS_MAX = 3 * SLOT_SECONDS
"""How long after the return of the cloud the agent may take to be active."""
SETTLE_SECONDS_MAX = 60.0
"""Real time that the work after a jump may take."""
MACHINE = {
    "product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432",
    "board_serial": "CNFCP0096L00DE",
    "disk_serial": "S3Z8NB0K123456",
    "mac": "b8:2a:72:aa:bb:cc",
}


class Shown(msgspec.Struct, frozen=True):
    """What the agent shows: state, gate, new work, exit code."""

    state: str
    gate: bool
    new_work: bool
    exit_code: int


STAGES = (
    Shown("active", gate=True, new_work=True, exit_code=0),
    Shown("refresh-due", gate=True, new_work=True, exit_code=0),
    Shown("grace", gate=True, new_work=True, exit_code=0),
    Shown("restricted", gate=True, new_work=False, exit_code=0),
    Shown("terminated", gate=False, new_work=False, exit_code=83),
)
"""Before the first date, and from each date on (the table of states in docs/agent.md)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the tiers and the number of days."""
    parser.add_argument("--tier", choices=sorted(TIERS), action="append", help="only this tier (default: all)")
    parser.add_argument(
        "--days", type=float, default=OFFLINE_DAYS, help="days without the cloud, 0 for none (default: %(default)s)"
    )
    parser.add_argument(
        "--days-with", type=float, default=7.0, help="days with the cloud, 0 for none (default: %(default)s)"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run each tier without its cloud; then the days with it."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-days-") as folder:
        directory = Path(folder)
        with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            for tier in (options.tier or TIERS) if options.days else ():
                site = _Days(directory / tier, chip, tier, say)
                site.run(site.without_cloud, options.days)
                figures |= site.figures
                findings += site.findings
            if options.days_with:
                site = _Days(directory / "with", chip, "attested", say)
                site.run(site.with_cloud, options.days_with)
                figures |= site.figures
                findings += site.findings
    return Outcome(figures, tuple(findings))


class VirtualTime:
    """The time of machine and cloud. It moves by `jump` only."""

    def __init__(self) -> None:
        self.clock = trio.testing.MockClock()
        self._base = datetime.now(UTC).replace(microsecond=0)
        self._began = self.clock.current_time()

    def seconds(self) -> float:
        """Virtual seconds since the begin. The machine never sleeps."""
        return round(self.clock.current_time() - self._began, 3)

    def now(self) -> datetime:
        """The wall clock of machine and cloud."""
        return self._base + timedelta(seconds=self.seconds())


class _Fabric(FlappingFabric):
    """A Fabric that signs leases of one tier."""

    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def lease(self, generation: int = 0, issued_at: datetime | None = None, **changes: object) -> str:
        at = issued_at or simulator.utc_now()
        dates = {name: at + days * DAY for name, days in zip(DATES, TIERS[self._tier], strict=True)}
        return super().lease(generation, at, **{"tier": self._tier, **dates, **changes})


class _Days:
    """One site with one agent."""

    def __init__(self, directory: Path, chip: SoftTpm, tier: str, say: Say) -> None:
        directory.mkdir()
        self.time = VirtualTime()
        self.figures: dict[str, Figure] = {}
        self.findings: list[str] = []
        self._directory = directory
        self._software = tier == "software"
        self._tpm = Tpm("device:/nonexistent/tpm" if self._software else chip.tcti)
        self._tier = tier
        self._say = say

    def run(self, work: Callable[[float], Awaitable[None]], days: float) -> None:
        """Do the work in virtual time."""
        try:
            trio.run(work, days, clock=self.time.clock)
        finally:
            self._tpm.close()

    async def without_cloud(self, days: float) -> None:
        """Reach each date, bring the cloud back after it, and at the end stay away for all the days."""
        seconds = 0
        async with self._agent() as agent:
            for last in range(1, len(STAGES)):
                self._fabric.cut = "closed"
                seconds += await self._walk(agent, last)
                self._fabric.cut = ""
                await self._must_come_back(agent, STAGES[last].state)
            self._fabric.cut = "closed"
            began = self.time.now()
            seconds += await self._walk(agent, len(STAGES) - 1)
            while self.time.now() < began + days * DAY:
                await self._jump(HOP_SECONDS)
            self._expect(agent, STAGES[-1], f"day {days:g}")
            self._fabric.cut = ""
            await self._must_come_back(agent, "terminated")
        self.figures[f"{self._tier}, dates met to the second"] = seconds
        self._say(f"{self._tier}: {seconds} dates")

    async def _walk(self, agent: Agent, last: int) -> int:
        """From a lease without a passed date to the date number `last`. Returns the number of dates."""
        lease = agent.licence.lease
        if lease is None:
            self.findings.append(f"{self._tier}: no lease")
            return 0
        for number, name in enumerate(DATES[:last], start=1):
            date: datetime = getattr(lease, name)
            while (left := (date - self.time.now()).total_seconds()) > SLOT_SECONDS:
                await self._jump(min(left - SLOT_SECONDS / 2, HOP_SECONDS))
            await self._jump((date - self.time.now()).total_seconds() - 1)
            self._expect(agent, STAGES[number - 1], f"a second before {name}")
            await self._jump(1)
            self._expect(agent, STAGES[number], name)
        return last

    async def _must_come_back(self, agent: Agent, state: str) -> None:
        waited = 0.0
        while self._shown(agent) != STAGES[0] and waited < BACK_SECONDS_MAX:
            await self._jump(SLOT_SECONDS / 10)
            waited += SLOT_SECONDS / 10
        self._expect(agent, STAGES[0], f"the cloud is back after {state}")

    def _expect(self, agent: Agent, wanted: Shown, when: str) -> None:
        found = self._shown(agent)
        if found != wanted:
            self.findings.append(f"{self._tier}, {when}: {found}, not {wanted}")
            self._say(self.findings[-1])

    def _shown(self, agent: Agent) -> Shown:
        snapshot = agent.snapshot()
        document = agent.status().license
        if snapshot.verdict.valid_until > self.time.now() + timedelta(seconds=60):
            self.findings.append(f"{self._tier}: an answer is valid until {snapshot.verdict.valid_until}")
        return Shown(document.state, document.gate == "open", document.new_work, document.exit_code)

    async def with_cloud(self, days: float) -> None:
        """Let the agent work for the days, and compare its resources at each hour."""
        async with self._agent() as agent:
            samples = []
            label = label_of(agent.licence.identity.holder)
            before = await self._counted(label)
            leases = self._fabric.leases
            for hour in range(int(days * 24) + 1):
                samples.append((await self._resources(), sample_self()))
                if hour % 24 == 0:
                    self._say(f"hour {hour}: {samples[-1]}")
                for _ in range(3600 // SLOT_SECONDS):
                    await self._jump(SLOT_SECONDS)
            self._expect(agent, STAGES[0], "at the end")
            raised, signed = await self._counted(label) - before, self._fabric.leases - leases
        self.figures |= {"with the cloud: leases signed": signed, "with the cloud: floor counter raised": raised}
        if raised > signed + 1:
            self.findings.append(f"with the cloud: the floor counter was raised {raised} times for {signed} leases")
        first, last = samples[min(1, len(samples) - 1)], samples[-1]
        for name, early, late, more in (
            ("tasks", first[0]["tasks"], last[0]["tasks"], 2),
            ("objects in the TPM", first[0]["objects"], last[0]["objects"], 0),
            ("sessions in the TPM", first[0]["sessions"], last[0]["sessions"], 0),
            ("descriptors", first[1][0], last[1][0], 2),
            ("threads", first[1][1], last[1][1], 3),
            ("RSS, KiB", first[1][2], last[1][2], 4096),
        ):
            self.figures |= {f"with the cloud: {name}, hour 1": early, f"with the cloud: {name}, last": late}
            if late > early + more:
                self.findings.append(f"with the cloud: {name} grew from {early} to {late}")
        self.figures["with the cloud: answers"] = self._fabric.answered

    async def _counted(self, label: str) -> int:
        """The value of the floor counter in the TPM; 0 without one."""
        found = await self._tpm.run(lambda esys: counter.find(esys, label))
        return found.value if found is not None else 0

    async def _resources(self) -> dict[str, int]:
        def count(esys: ESAPI, first: int) -> int:
            _, capability = esys.get_capability(TPM2_CAP.HANDLES, first, 32)
            handles = capability.data.handles
            return sum(int(handles[at]) >> 24 == first >> 24 for at in range(int(handles.count)))

        objects, sessions = await self._tpm.run(lambda esys: (count(esys, 0x80000000), count(esys, 0x02000000)))
        return {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "objects": objects,
            "sessions": sessions,
        }

    @contextlib.asynccontextmanager
    async def _agent(self) -> AsyncIterator[Agent]:
        """The activated agent, after READY."""
        with _patched(self.time, software=self._software):
            self._fabric = fabric = _Fabric(self._tier)
            for service in fabric.leaves:
                fabric.leaves[service] = fabric.service_leaf(service, not_after=self.time.now() + 360 * DAY)
            if self._software:
                SoftwareCloud(fabric)
            async with trio.open_nursery() as nursery:
                await nursery.start(fabric.serve)
                repository = repository_of(fabric)
                with repository.served():
                    state = State(self._directory / "state")
                    state.directory.mkdir(mode=0o700)
                    file = write_activation_file(
                        self._directory / "file.json", repository.url, repository.pin, created_at=self.time.now()
                    )
                    await activate(state, self._tpm, file, self.time.now, lambda _: None, in_software=self._software)
                config = Config(
                    state_dir=state.directory, socket=self._directory / "s.sock", tpm="site", mode="development",
                    heartbeat_seconds=SLOT_SECONDS,
                )  # fmt: skip
                state = State(config.state_dir)
                with state.owned():
                    agent = Agent.load(config, state, self._tpm, self.time.now, lambda: 0.0, self.time.seconds)
                    ready = trio.Event()
                    nursery.start_soon(agent.run, ready.set)
                    while not ready.is_set():
                        await self._jump(0.1)
                    yield agent
                    nursery.cancel_scope.cancel()

    async def _jump(self, seconds: float) -> None:
        """Let the time pass, and wait in real time until the agent has nothing left to do."""
        if seconds > 0:
            self.time.clock.jump(seconds)
        until = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            await trio.testing.wait_all_tasks_blocked(0.002)
            if not self._in_threads() or time.monotonic() > until:
                break
            await trio.to_thread.run_sync(time.sleep, 0.001)

    def _in_threads(self) -> bool:
        """Whether a thread works for a task: for the TPM, the disk or the network."""
        disk, reader = thread._limiter.get(), reading._reader.get()
        limiters = [trio.to_thread.current_default_thread_limiter(), network_limiter(), self._tpm._limiter]
        limiters += [disk] if disk is not None else []
        limiters += [reader.limiter] if reader is not None else []
        return any(limiter.borrowed_tokens for limiter in limiters)


def sample_self() -> tuple[int, int, int]:
    """Descriptors, threads, and RSS in KiB of this process, after a collection of garbage."""
    gc.collect()
    found = sample(os.getpid())
    return found.descriptors, found.threads, found.rss_kib


@contextlib.contextmanager
def _patched(times: VirtualTime, *, software: bool) -> Iterator[None]:
    """Give the simulated cloud the virtual time, and a machine without a TPM its serial numbers."""
    with contextlib.ExitStack() as stack:
        for module in (simulator, software_cloud):
            stack.enter_context(patch.object(module, "utc_now", times.now))
        if software:
            components = Components(MACHINE, Reasons())
            stack.enter_context(patch.object(reading, "read_components", lambda: components))
        yield
