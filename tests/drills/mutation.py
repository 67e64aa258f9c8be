"""Everything that the cloud says to an agent is mutated at random: no traceback, no exit, no wrong state, not deaf.

The agent is complete and runs on a software TPM. Fabric and the repository of the published trust are simulators, and
mutate a share of the answers. Each round starts the agent, asks for contacts, renewals, refreshes of the trust and an
activation, then ends the mutations and waits until the agent has the present statement. The rounds go through a lease,
a suspension, a lease and, at the end, a revocation.
"""

import argparse
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import trio

from lab.tpm import SoftTpm, shared_bus
from node.agent import Agent
from node.clock import utc_now
from node.config import Config
from node.errors import NodeError
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from node.local.client import request
from tests.drills.frame import Figure, Outcome, Say
from tests.simulators.mutations import MutatingFabric, MutatingRepository, Mutator
from tests.simulators.site import Site, targets_of, unexpected_errors
from tests.waiting import until

USUAL_TIME = "10 min"
MINUTES_MAX = 30.0

SHARES = (0.15, 0.4, 0.8)
"""Shares of mutated answers, one for each round. With few, the later steps of an exchange are reached."""
STEPS = 40
"""Steps of a round. A step is a contact, a renewal, a refresh of the trust or an activation."""
STEP_SECONDS_MAX = 60.0
RECOVERY_SECONDS_MAX = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the time and the seed."""
    parser.add_argument("--minutes", type=float, default=10.0, help="time of the rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations; 0 takes one from the clock")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run rounds for the given time."""
    seed = options.seed or int(time.time())
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="cascade-mutation-") as folder:
        directory = Path(folder)
        with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            mutations = Mutations(directory, chip, seed, say)
            return trio.run(mutations.run, options.minutes * 60, STEPS)


class Mutations:
    """One run: an activated machine, a mutating cloud, and what was found."""

    def __init__(self, directory: Path, chip: SoftTpm, seed: int, say: Say) -> None:
        self._directory = directory
        self._tpm = Tpm(chip.tcti, command_seconds_max=10.0)
        # The choice of mutations needs no secret randomness.
        self._choose = random.Random(seed)
        self._mutator = Mutator(random.Random(seed))
        self._say = say
        self._findings: list[str] = []
        self._steps = 0
        self._rounds = 0
        self._refused: dict[str, int] = {}

    async def run(self, seconds: float, steps: int) -> Outcome:
        """Activate, then run rounds until the time is over, and the last round with a revocation."""
        begun = time.monotonic()
        self.fabric = MutatingFabric(self._mutator)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.fabric.serve)
                published = utc_now() - timedelta(minutes=1)
                self.repository = MutatingRepository(targets_of(self.fabric), published, self._mutator)
                with self.repository.served(), unexpected_errors() as unexpected:
                    self.site = Site(self._directory, self._tpm, self.fabric, self.repository)
                    config = await self.site.activate("state")
                    while not self._findings and (not self._rounds or time.monotonic() < begun + seconds):
                        await self._round(config, steps, self._rounds % 2 == 1)
                        self._findings += unexpected.found
                        self._say(f"round {self._rounds}: {self._steps} steps, {self._mutator.made.total()} mutations")
                    if not self._findings:
                        await self._last_round(config, steps)
                        self._findings += unexpected.found
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._tpm.aclose()
        figures: dict[str, Figure] = {"rounds": self._rounds, "steps": self._steps}
        figures |= {f"mutated {kind}": count for kind, count in sorted(self._mutator.made.items())}
        figures |= {f"step refused: {code}": count for code, count in sorted(self._refused.items())}
        return Outcome(figures, tuple(self._findings))

    def _share(self, share: float) -> None:
        self.fabric.share = self.repository.share = share

    async def _round(self, config: Config, steps: int, suspended: bool) -> None:
        self._rounds += 1
        before = self.fabric.statement
        self.fabric.say(self.fabric.suspension() if suspended else self.fabric.lease())
        expected = "suspended" if suspended else "active"
        async with self._running(config) as agent:
            self._share(self._choose.choice(SHARES))
            for _ in range(steps):
                await self._step(agent)
                self._check(agent, {before, self.fabric.statement})
            self._share(0.0)
            await self._hears(agent, expected)

    async def _last_round(self, config: Config, steps: int) -> None:
        self._rounds += 1
        async with self._running(config) as agent:
            await self._hears(agent, agent.licence.verdict().state)
            before = self.fabric.statement
            self.fabric.revoke()
            self._share(self._choose.choice(SHARES))
            for _ in range(steps):
                await self._step(agent)
                self._check(agent, {before, self.fabric.statement})
            self._share(0.0)
            await self._hears(agent, "revoked")

    @asynccontextmanager
    async def _running(self, config: Config) -> AsyncIterator[Agent]:
        """The agent, from READY. It starts while the answers are mutated."""
        self._share(self._choose.choice(SHARES) if self._rounds > 1 else 0.0)
        async with self.site.running(config, lambda error: self._found("the agent ended", error)) as running:
            yield running.loaded

    def _found(self, what: str, error: BaseException | None) -> None:
        lines = "\n".join(self._mutator.last)
        self._findings.append(f"{what}: {error!r}\nthe latest mutations:\n{lines}")

    async def _step(self, agent: Agent) -> None:
        self._steps += 1
        works: tuple[Callable[[], Awaitable[object]], ...] = (
            agent.contact.attempt,
            lambda: agent.contact.attempt(new_session=True),
            lambda: agent.contact.attempt(new_session=True),
            lambda: agent.renew(rekey=False),
            lambda: agent.renew(rekey=self._choose.random() < 0.3),
            agent.licence.trust.refresh,
            lambda: self._activation(agent),
        )
        work = self._choose.choices(works, weights=(8, 6, 6, 3, 1, 3, 1))[0]
        try:
            with trio.fail_after(STEP_SECONDS_MAX):
                await work()
        except (NodeError, TpmError) as error:
            self._refused[error.code] = self._refused.get(error.code, 0) + 1
        except trio.TooSlowError:
            self._found("a step took too long", None)
        except Exception as error:  # noqa: BLE001 - every other error is a finding
            self._found("a step ended with an error that no code expects", error)

    async def _activation(self, agent: Agent) -> None:
        """Activate another state directory. The simulator has one node, so its generation goes back afterwards.

        The agent makes no contact meanwhile: the simulator would truly say that its generation is superseded.
        """
        confirmed, statement, closed = self.fabric.confirmed, self.fabric.statement, dict(self.fabric.closed)
        last = self.fabric.last_generation
        async with agent.contact._one_at_a_time:
            try:
                await self.site.activate(f"other-{self._steps}")
            finally:
                self.fabric.confirmed, self.fabric.closed, self.fabric.last_generation = confirmed, closed, last
                if self.fabric.statement != statement:
                    self.fabric.say(statement)

    def _check(self, agent: Agent, statements: set[str]) -> None:
        presented = agent.licence.presented
        if presented not in statements:
            self._found(f"the agent took a statement that is not its own: {presented}", None)

    async def _hears(self, agent: Agent, state: str) -> None:
        """Wait until the agent has the present statement, and compare the state that the socket shows."""
        agent.wake()
        try:
            await until("the statement", lambda: agent.licence.presented == self.fabric.statement, RECOVERY_SECONDS_MAX)
        except AssertionError as error:
            self._found("the agent does not hear the cloud any more", error)
            return
        shown = (await request(agent.config.socket, "GET", "/v1/license")).document
        gate = "open" if state == "active" else "closed"
        if (shown.get("state"), shown.get("gate")) != (state, gate):
            self._found(f"the socket shows {shown.get('state')}, {shown.get('gate')} and not {state}, {gate}", None)
