"""Every call of an agent on its disk, its TPM and its cloud fails: one by one, then in pairs at random.

The agent is complete; the cloud is simulated. A first pass without faults records the calls, and a call of the agent's
code that it does not meet is a finding. Then each call fails in each way, while the agent starts (on a lease, suspended,
revoked, not confirmed yet) and while it runs. An agent must not end but for a
lasting fault of the TPM or a revocation, must keep its gate as the stored and the heard statements say, must name the
cause in its status, and must hear the cloud when the fault is over.
"""

import argparse
import inspect
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import trio

from lab.tpm import SoftTpm, shared_bus
from node.agent import Agent, Revoked
from node.clock import utc_now
from node.config import Config
from node.disk import calls
from node.errors import NodeError, Unreachable
from node.hwbind.errors import TpmError
from node.licensing.floor_store import FloorStore
from node.link import api
from node.local.client import request
from tests.drills.frame import Figure, Outcome, Say
from tests.node.shells import forget_floors
from tests.simulators.fabric import always
from tests.simulators.faulty_ports import (
    Faults,
    FaultyFabric,
    FaultyRepository,
    Point,
    disk_hook,
    faulty_tpm,
    kinds_of,
)
from tests.simulators.site import EndedEarly, Running, Site, targets_of, unexpected_errors
from tests.waiting import until

USUAL_TIME = "30 min"
MINUTES_MAX = 120.0

HELD = ("lease", "suspended", "revoked", "unconfirmed")
"""What the machine holds when it starts."""
RUNNING = "running"
"""The scenario of an agent that runs on a lease."""
ROOT = Path(__file__).parent.parent.parent
CONFIRM = "/v1/node/confirm"
HEAR_SECONDS_MAX = 20.0
UP_SECONDS_MAX = 40.0
RUN_SECONDS_MAX = 150.0
FINDINGS_MAX = 60

UNCOVERED: dict[str, str] = {
    "cloud POST /v1/activations": "a call of `cascadia activate`, which the walk through its own steps interrupts",
    "cloud POST /v1/activations/*/proof": "the same",
    "cloud POST /v1/software-activations": "a call of `cascadia activate --software`, which its own tests interrupt",
    "cloud POST /v1/software-activations/*/proof": "the same",
    "cloud POST /v1/node/software-renewals": "a call of a node without a TPM; this machine has one",
    "cloud POST /v1/node/release": "a call of `cascadia deactivate`, which the fault walk and its own tests interrupt",
    "tpm nvundefinespace": "the same",
    "disk fchown": "a call on files of another user; tests/node/disk has its faults",
}
"""Calls of the agent's code that no scenario meets, and why."""

Armed = dict[Point, str]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of points, and the number of pairs."""
    parser.add_argument("--only", default="", help="only points whose name contains this text")
    parser.add_argument("--sample", type=int, default=0, help="only so many random single faults; 0 takes all")
    parser.add_argument("--pairs", type=int, default=200, help="random pairs of faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pairs; 0 takes one from the clock")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Record the calls, then let them fail."""
    seed = options.seed or int(time.time())
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="cascade-faults-") as folder:
        directory = Path(folder)
        with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            walk = Walk(directory, chip, say)
            return trio.run(walk.run, options.only, options.sample, options.pairs, random.Random(seed))


def uncovered(met: Iterable[Point]) -> list[str]:
    """The calls of the agent's code that are not among these points: disk, TPM commands, routes of the cloud."""
    seen = {f"{point.port} {point.call.split()[0]}" if point.port == "disk" else str(point) for point in met}
    seen = {name.replace("_", "") if name.startswith("tpm") else name for name in seen}
    expected = {f"disk {call}" for call in calls.CALLS}
    # Each public method of the API's client names its route in its docstring.
    documented = "".join(inspect.getdoc(method) or "" for method in vars(api.Service).values())
    for method, path in re.findall(r"`(GET|POST) (/[^`?]+)`", documented):
        expected.add(f"cloud {method} {re.sub(r'{[^}]*}', '*', path)}")
    for module in (ROOT / "node" / "hwbind").glob("*.py"):
        for name in re.findall(r"\besys\.(\w+)\(", module.read_text()):
            # `tr_from_tpmpublic` reads the public part; the other `tr_` functions send no command.
            command = "readpublic" if name == "tr_from_tpmpublic" else name.replace("_", "")
            if not command.startswith("tr"):
                expected.add(f"tpm {command}")
    return sorted(expected - seen - set(UNCOVERED))


class Walk:
    """One run of the drill."""

    def __init__(self, directory: Path, chip: SoftTpm, say: Say) -> None:
        self._directory = directory
        self._say = say
        self._faults = Faults()
        self._chip = chip
        self._tpm = faulty_tpm(chip.tcti, self._faults)
        self._findings: list[str] = []
        self._outcomes: Counter[str] = Counter()
        self._runs = 0
        self._where = ""

    async def run(self, only: str, sample: int, pairs: int, choose: random.Random) -> Outcome:
        """Record the points; walk through all of them; then walk through pairs."""
        async with self._recorded() as points:
            chosen = [point for point in points if only in str(point)]
            singles: list[Armed] = [{point: kind} for point in chosen for kind in kinds_of(point)]
            if sample:
                singles = choose.sample(singles, min(sample, len(singles)))
            await self._walk(singles)
            two = [choose.sample(chosen, 2) for _ in range(pairs if len(chosen) > 1 else 0)]
            await self._walk([{point: choose.choice(kinds_of(point)) for point in both} for both in two])
        return self._outcome(points)

    async def run_chosen(self, chosen: Sequence[tuple[Armed, Sequence[str]]]) -> Outcome:
        """Record the points, and run each fault in its scenarios: an agent that runs, or that starts on this.

        The points of the faults must be among the recorded ones.
        """
        async with self._recorded() as points:
            missing = {str(point) for armed, _ in chosen for point in armed} - {str(point) for point in points}
            self._findings += [f"no scenario meets {call}" for call in sorted(missing)]
            for armed, scenarios in chosen:
                await self._case(armed, scenarios)
        return self._outcome(points)

    @asynccontextmanager
    async def _recorded(self) -> AsyncIterator[list[Point]]:
        """The points that the scenarios meet without a fault, while the site runs."""
        try:
            async with self._site() as self.site:
                await self._prepare()
                points = await self._record()
                self._findings += [f"no scenario meets {call}" for call in uncovered(points)]
                yield points
        finally:
            with trio.CancelScope(shield=True):
                await self._tpm.aclose()

    def _outcome(self, points: list[Point]) -> Outcome:
        figures: dict[str, Figure] = {"points": len(points), "runs": self._runs}
        figures |= {f"{port} points": sum(point.port == port for point in points) for port in ("disk", "tpm", "cloud")}
        figures |= dict(sorted(self._outcomes.items()))
        return Outcome(figures, tuple(self._findings[:FINDINGS_MAX]))

    @asynccontextmanager
    async def _site(self) -> AsyncIterator[Site]:
        fabric = FaultyFabric(self._faults)
        async with trio.open_nursery() as nursery:
            await nursery.start(fabric.serve)
            published = utc_now() - timedelta(minutes=1)
            repository = FaultyRepository(targets_of(fabric), published, self._faults)
            with repository.served():
                yield Site(self._directory, self._tpm, fabric, repository)
            nursery.cancel_scope.cancel()

    async def _prepare(self) -> None:
        """Activate one state directory for each kind of statement that a machine can hold."""
        fabric = self.site.fabric
        fabric.answers[CONFIRM] = always(503)
        with suppress(Unreachable):
            await self.site.activate("unconfirmed")
        del fabric.answers[CONFIRM]
        # Every directory has generation 1.
        fabric.last_generation = 0
        config = await self.site.activate("lease")
        for name, token in (("suspended", fabric.suspension), ("revoked", None)):
            shutil.copytree(config.state_dir, self._directory / name)
            async with self.site.running(self.site.config(name), self._ended) as running:
                agent = running.loaded
                if token is None:
                    closed = dict(fabric.closed)
                    fabric.revoke()
                    await self._hears(agent)
                    self._revocation, fabric.closed = fabric.statement, closed
                else:
                    fabric.say(token())
                    await self._hears(agent)

    async def _record(self) -> list[Point]:
        """Run every scenario without a fault. Returns the points that were passed."""
        self._faults.seen.clear()
        await self._case({})
        for point, count in sorted(self._faults.seen.items()):
            self._say(f"{point}: {count} calls")
        return sorted(self._faults.seen)

    async def _walk(self, armed: Sequence[Armed]) -> None:
        for number, each in enumerate(armed):
            await self._case(each)
            if number % 20 == 19:
                self._say(f"{number + 1} of {len(armed)}: {self._runs} runs, {len(self._findings)} findings")

    async def _case(self, armed: Armed, scenarios: Sequence[str] = (*HELD, RUNNING)) -> None:
        for name in scenarios:
            if name == RUNNING:
                await self._one("running", armed, partial(self._running, armed=armed), "lease")
            else:
                await self._one(f"start on {name}", armed, partial(self._start, armed=armed, held=name), name)

    async def _one(self, name: str, armed: Armed, scenario: Callable[[Config], Awaitable[None]], held: str) -> None:
        """One run of a scenario, on a copy of the prepared state directory."""
        self._runs += 1
        self._where = f"{name}, {', '.join(f'{point} {kind}' for point, kind in armed.items()) or 'no fault'}"
        work = self._directory / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._directory / held, work)
        # The runs share one counter, so the prepared floor records do not fit it any more.
        forget_floors(self._chip.tcti)
        for copy in FloorStore(work).paths:
            copy.unlink(missing_ok=True)
        self._faults.arm({})
        fabric = self.site.fabric
        fabric.taken, fabric.closed = None, {}
        fabric.say(fabric.suspension() if held == "suspended" else fabric.lease())
        if held == "revoked":
            fabric.closed, fabric.statement = {1: self._revocation}, self._revocation
        fabric.confirmed, fabric.last_generation = int(held != "unconfirmed"), 1
        if held == "unconfirmed":
            fabric.statement = ""
        with calls.hooked(disk_hook(self._faults, work)), unexpected_errors() as unexpected:
            try:
                with trio.fail_after(RUN_SECONDS_MAX):
                    await scenario(self.site.config("work"))
            except Exception as error:  # noqa: BLE001 (every error is a finding)
                self._found(f"the scenario ended: {error!r}")
            for text in unexpected.found:
                self._found(text)
        self._faults.arm({})

    def _found(self, what: str) -> None:
        self._findings.append(f"{self._where}: {what}")
        self._say(self._findings[-1][:300])

    def _ended(self, error: BaseException | None) -> None:
        self._found(f"the agent ended: {error!r}")

    # Scenarios

    async def _start(self, config: Config, armed: Armed, held: str) -> None:
        """The agent starts while the faults last. Then the faults end, and the agent must hear a new statement."""
        self._faults.arm(armed)
        ended: list[BaseException | None] = []
        with suppress(EndedEarly):
            async with self._started(config, ended) as running:
                await self._judge(config, running.agent, armed, held)
                self._faults.arm({})
                if held == "unconfirmed":
                    await running.ready.wait()
                    await until("the confirmation", partial(self._confirmed, running), HEAR_SECONDS_MAX)
                if held != "revoked":
                    self.site.fabric.say(self.site.fabric.lease())
                await self._comes_up(running)
                await self._hears(running.loaded)
                await self._shows(config, "revoked" if held == "revoked" else "active")
                return
        self._outcomes[f"start on {held}: ended with {type(ended[0]).__name__}"] += 1
        on_the_tpm = any(point.port == "tpm" for point in armed)
        if isinstance(ended[0], Revoked) and held == "revoked":
            return
        if not (isinstance(ended[0], TpmError) and on_the_tpm):
            self._found(f"the start ended: {ended[0]!r}")
        self._faults.arm({})
        with suppress(EndedEarly):
            async with self._started(config, ended) as running:
                await self._hears(running.loaded)
                return
        if not (isinstance(ended[-1], Revoked) and held == "revoked"):
            self._found(f"the start after the faults ended: {ended[-1]!r}")

    def _confirmed(self, running: Running) -> bool:
        running.loaded.wake()
        return bool(self.site.fabric.confirmed)

    async def _comes_up(self, running: Running) -> None:
        with trio.move_on_after(UP_SECONDS_MAX):
            await running.ready.wait()
            return
        self._found("the agent does not come up after the faults")

    async def _running(self, config: Config, armed: Armed) -> None:
        """A running agent meets the faults. It hears a suspension, a new lease and a revocation."""
        fabric, on_the_cloud = self.site.fabric, any(point.port == "cloud" for point in armed)
        ended: list[BaseException | None] = []
        async with self._started(config, ended) as running:
            agent = running.loaded
            await self._hears(agent)
            self._faults.arm(armed)
            reported = False
            for rekey in (False, True):
                try:
                    await agent.renew(rekey=rekey)
                except (NodeError, TpmError):
                    reported = True  # `cascadia renew` prints the cause
            self.site.repository.replace(targets_of(fabric), utc_now())
            await agent.contact.refresh_trust()
            await agent.contact.attempt(new_session=True)
            await self._judge(config, agent, armed, "lease", running=True, reported=reported)
            for token, state in ((fabric.suspension, "suspended"), (fabric.lease, "active")):
                fabric.say(token())
                if on_the_cloud:
                    await agent.contact.attempt()
                    self._faults.arm({})
                await self._hears(agent)
                await self._shows(config, state)
                self._faults.arm(armed)
            fabric.revoke()
            if on_the_cloud:
                await agent.contact.attempt()
                self._faults.arm({})
            await self._hears(agent)
            await self._shows(config, "revoked")
        if ended:
            self._found(f"the agent ended: {ended[0]!r}")
            return
        # The revocation must be stored in spite of the faults, or the machine would run again offline.
        self._faults.arm({Point("cloud", call): "closed" for port, call in self._faults.seen if port == "cloud"})
        with suppress(EndedEarly):
            async with self._started(config, ended) as running:
                verdict = running.loaded.licence.verdict()
                self._outcomes[f"offline after a revocation with faults: {verdict.state}"] += 1
                if verdict.gate_open:
                    self._found("the gate is open offline after a revocation")
            return
        self._outcomes[f"offline after a revocation with faults: {type(ended[0]).__name__}"] += 1

    @asynccontextmanager
    async def _started(self, config: Config, ended: list[BaseException | None]) -> AsyncIterator[Running]:
        """The started agent. Raises EndedEarly if it ended before; `ended` has the error of every end."""
        try:
            async with self.site.running(config, ended.append) as running:
                yield running
        except EndedEarly as early:
            ended.append(early.error)
            raise

    async def _judge(
        self,
        config: Config,
        agent: Agent | None,
        armed: Armed,
        held: str,
        *,
        running: bool = False,
        reported: bool = False,
    ) -> None:
        """Check the gate and the shown cause while the faults last."""
        status = (await request(config.socket, "GET", "/v1/status")).document
        state, gate = status["license"]["state"], status["license"]["gate"]
        self._outcomes[f"{'running' if running else 'start'} on {held}: {state}"] += 1
        if held in ("suspended", "revoked") and gate == "open":
            self._found(f"the gate is open on {held}: {state}")
        cloud_only = all(point.port == "cloud" for point in armed)
        if held == "lease" and (cloud_only or running) and gate != "open":
            self._found(f"the gate is closed on a lease: {state} ({status['license']['reason']})")
        as_held = {
            "lease": ("active",),
            "suspended": ("suspended", "active"),
            "revoked": ("revoked",),
            "unconfirmed": ("active", "pending"),
        }[held]
        heard = agent is not None and agent.licence.presented == self.site.fabric.statement
        if heard and state in as_held and not status["failures"]:
            self._outcomes["faults without an effect"] += bool(self._faults.hit)
        elif not reported and not any((status["conditions"], status["last_failure"], status["damaged"])):
            hit = ", ".join(f"{point} {armed[point]}" for point in self._faults.hit)
            self._found(f"the status shows no cause for {hit}")

    async def _hears(self, agent: Agent) -> None:
        """Wait until the agent has the present statement."""

        def has_it() -> bool:
            agent.wake()
            return agent.licence.presented == self.site.fabric.statement

        try:
            await until("the present statement", has_it, HEAR_SECONDS_MAX)
        except AssertionError:
            self._found(f"the agent does not hear the cloud; its state is {agent.licence.verdict().state}")

    async def _shows(self, config: Config, state: str) -> None:
        shown = (await request(config.socket, "GET", "/v1/license")).document
        gate = "open" if state == "active" else "closed"
        if (shown.get("state"), shown.get("gate")) != (state, gate):
            self._found(f"the socket shows {shown.get('state')}, {shown.get('gate')} and not {state}, {gate}")
