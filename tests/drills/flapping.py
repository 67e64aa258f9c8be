"""An agent runs through 24 hours of network cuts, sleeps and clock steps: its memory and descriptors stay flat.

The hours are simulated: the loops of the agent and of the simulated cloud run at a multiple of real time. The agent is
a process of its own, on a software TPM. The network fails and comes back, the machine sleeps, and somebody sets its
clock wrong and right again. Every simulated hour the drill reads the agent's memory, descriptors and threads.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import ssl
import tempfile
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio.testing

from lab.tpm import SoftTpm, shared_bus
from node.agent import Agent
from node.config import Config
from node.hwbind.tpm import Tpm
from node.local.client import AgentAbsent, request
from node.state import State
from tests.drills.frame import Figure, Outcome, Say
from tests.simulators import fabric as simulator
from tests.simulators.fabric import DAY, REFRESH_AFTER, Fabric, Leaf, Reply, Request
from tests.simulators.site import Site, repository_of

USUAL_TIME = "25 min"
MINUTES_MAX = 90.0

WARM_HOURS = 3
"""The first hours fill caches and pools. The measurements begin after them."""
RSS_GROWTH_KIB_MAX = 2048
"""Growth from the first to the last third of the measured hours."""
DESCRIPTORS_GROWTH_MAX = 1
THREADS_GROWTH_MAX = 2
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: the simulated dates lie ahead of the real clock that OpenSSL reads."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the hours, the rate and the seed."""
    parser.add_argument("--hours", type=float, default=24.0, help="simulated hours (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=60.0, help="simulated seconds in a second (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the events; 0 takes one from the clock")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Start the agent, let things happen to it, and judge the measurements."""
    seed = options.seed or int(time.time())
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="cascade-flapping-") as folder:
        directory = Path(folder)
        with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            drill = Flapping(directory, chip, options.rate, random.Random(seed), say)
            clock = trio.testing.MockClock(rate=options.rate)
            return trio.run(drill.run, options.hours, clock=clock)


class SimulatedClock:
    """The wall clock of the machine, and the time for which it has slept. Two processes share the values."""

    def __init__(self, rate: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.rate = rate
        self._began = time.monotonic()
        self._base = time.time()
        self.slept: Synchronized[float] = context.Value("d", 0.0)
        self.stepped: Synchronized[float] = context.Value("d", 0.0)

    def true_now(self) -> datetime:
        """The time that the cloud has."""
        elapsed = (time.monotonic() - self._began) * self.rate
        return datetime.fromtimestamp(self._base + elapsed + self.slept.value, UTC)

    def machine_now(self) -> datetime:
        """The time that the machine's wall clock shows."""
        return self.true_now() + timedelta(seconds=self.stepped.value)

    def awake(self) -> float:
        """Seconds for which the machine has run."""
        return (time.monotonic() - self._began) * self.rate

    def asleep(self) -> float:
        """Seconds for which the machine has slept."""
        return self.slept.value


def run_agent(config: Config, tcti: str, clock: SimulatedClock) -> None:
    """The process of the agent."""
    agent = Agent.load(config, State(config.state_dir), Tpm(tcti), clock.machine_now, clock.asleep, clock.awake)
    trio.run(agent.run, clock=trio.testing.MockClock(rate=clock.rate))


class FlappingFabric(Fabric):
    """A Fabric that can be cut off, and that signs new leases as time passes.

    `cut` is empty, `closed` (connections end) or `silent` (no answer comes). `leases` counts the signed leases.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut = ""
        self.answered = 0
        self.leases = 0
        self._lease_due = datetime.max.replace(tzinfo=UTC)

    def lease(self, generation: int = 0, issued_at: datetime | None = None, **changes: object) -> str:
        """Sign a lease. After half of the time to its `refresh_after`, the next answer has a new lease, as Fabric's has."""
        token = super().lease(generation, issued_at, **changes)
        self.leases += 1
        self._lease_due = simulator.utc_now() + REFRESH_AFTER / 2
        return token

    def _context(self, leaf: Leaf) -> ssl.SSLContext:
        context = super()._context(leaf)
        context.verify_flags |= NO_CHECK_TIME
        return context

    async def answer(self, request: Request) -> Reply | bytes:
        # A day of requests is not kept.
        self.requests.clear()
        self.handshakes.clear()
        if self.cut == "silent":
            await trio.sleep(900)
        if self.cut:
            return b""
        if simulator.utc_now() >= self._lease_due:
            self.statement = self.lease()
        self.answered += 1
        return await super().answer(request)


class Sample(msgspec.Struct, frozen=True):
    """One measurement of the agent's process."""

    rss_kib: int
    pss_kib: int
    descriptors: int
    threads: int


def sample(pid: int) -> Sample:
    """Measure a process (proc_pid_smaps(5), proc_pid_fd(5), proc_pid_task(5))."""
    values = dict.fromkeys(("Rss", "Pss"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in values:
            values[name] = int(rest.split()[0])
    return Sample(
        rss_kib=values["Rss"],
        pss_kib=values["Pss"],
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
    )


class Flapping:
    """One run of the drill."""

    def __init__(self, directory: Path, chip: SoftTpm, rate: float, choose: random.Random, say: Say) -> None:
        self._directory = directory
        self._chip = chip
        self._choose = choose
        self._say = say
        self._clock = SimulatedClock(rate)
        self._samples: list[Sample] = []
        self._events: dict[str, int] = {}
        self._findings: list[str] = []

    async def run(self, hours: float) -> Outcome:
        """Run the agent for so many simulated hours."""
        with _simulated(self._clock):
            self._fabric = FlappingFabric()
            for service in self._fabric.leaves:
                self._fabric.leaves[service] = self._fabric.service_leaf(
                    service, not_after=self._clock.true_now() + 90 * DAY
                )
            async with trio.open_nursery() as nursery:
                await nursery.start(self._fabric.serve)
                repository = repository_of(self._fabric)
                with repository.served():
                    tpm = Tpm(self._chip.tcti)
                    site = Site(self._directory, tpm, self._fabric, repository)
                    config = msgspec.structs.replace(
                        await site.activate("state"), heartbeat_seconds=600, settle_seconds=20
                    )
                    await tpm.aclose()
                    await self._watch(config, hours)
                nursery.cancel_scope.cancel()
        return self._outcome()

    async def _watch(self, config: Config, hours: float) -> None:
        os.environ.update(self._chip.env)
        process = multiprocessing.get_context("spawn").Process(
            target=run_agent, args=(config, self._chip.tcti, self._clock)
        )
        process.start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._happen)
                for hour in range(int(hours)):
                    await trio.sleep(3600)
                    if process.exitcode is not None:
                        self._findings.append(f"the agent ended with {process.exitcode} in hour {hour + 1}")
                        break
                    self._samples.append(sample(int(process.pid or 0)))
                    self._say(f"hour {hour + 1}: {self._samples[-1]}, {self._fabric.answered} answers")
                nursery.cancel_scope.cancel()
            self._fabric.cut, self._clock.stepped.value = "", 0.0
            await self._must_be_well(config)
        finally:
            process.terminate()
            await trio.to_thread.run_sync(process.join, 20)
            if process.is_alive():
                self._findings.append("the agent does not end on SIGTERM")
                process.kill()
                process.join()

    async def _happen(self) -> None:
        """Cut the network, let the machine sleep, set its clock wrong and right again."""
        while True:
            await trio.sleep(self._choose.expovariate(1 / 900))
            event = self._choose.choice(("closed", "silent", "closed", "sleep", "step"))
            self._events[event] = self._events.get(event, 0) + 1
            if event == "sleep":
                self._clock.slept.value += self._choose.uniform(60, 6 * 3600)
            elif event == "step":
                self._clock.stepped.value = self._choose.uniform(-86400, 86400)
                await trio.sleep(self._choose.uniform(60, 3600))
                self._clock.stepped.value = 0.0
            else:
                self._fabric.cut = event
                await trio.sleep(self._choose.uniform(10, 7200))
                self._fabric.cut = ""

    async def _must_be_well(self, config: Config) -> None:
        """Two heartbeat slots after the last event the agent must have an open gate and no failures."""
        last: dict[str, Any] = {"license": {"state": "no answer"}, "failures": "unknown"}
        for _ in range(24):
            await trio.sleep(100)
            with contextlib.suppress(AgentAbsent):
                # The client's time-out counts simulated seconds.
                status = (await request(config.socket, "GET", "/v1/status", seconds_max=600)).document
                if (status["license"]["state"], status["failures"]) == ("active", 0):
                    return
                last = status
        self._findings.append(
            f"the agent is not well at the end: {last['license']['state']}, {last['failures']} failures"
        )

    def _outcome(self) -> Outcome:
        measured = self._samples[WARM_HOURS:] or self._samples
        third = max(1, len(measured) // 3)
        early, late = measured[:third], measured[-third:]
        figures: dict[str, Figure] = {f"events: {name}": count for name, count in sorted(self._events.items())}
        figures |= {"answers": self._fabric.answered, "leases signed": self._fabric.leases}
        figures |= {"hours slept": round(self._clock.slept.value / 3600, 1)}
        limits = {"rss_kib": RSS_GROWTH_KIB_MAX, "descriptors": DESCRIPTORS_GROWTH_MAX, "threads": THREADS_GROWTH_MAX}
        for name in ("rss_kib", "pss_kib", "descriptors", "threads"):
            first, last = (min(getattr(each, name) for each in part) for part in (early, late))
            figures |= {f"{name}, first": first, f"{name}, last": last}
            if name in limits and last - first > limits[name]:
                self._findings.append(f"{name} grew from {first} to {last}")
        return Outcome(figures, tuple(self._findings))


@contextlib.contextmanager
def _simulated(clock: SimulatedClock) -> Any:
    """Let the simulated Fabric have the simulated time."""
    real = simulator.utc_now
    simulator.utc_now = clock.true_now
    try:
        yield
    finally:
        simulator.utc_now = real
