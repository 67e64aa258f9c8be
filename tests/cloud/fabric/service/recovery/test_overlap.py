"""Random walks of recoveries: one node, one seat, one generation in force, and no lease beyond the published overlap.

Three machines ask for one node: that of the activation, one with another TPM, and one with another TPM and other parts.
An operator decides, issues codes, suspends and resumes. Time passes, and machines refresh their leases or stay offline.
"""

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from cloud.fabric import errors
from cloud.fabric.errors import Refused
from cloud.fabric.licensing.recovery import UNFINISHED
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.signed.statements import Lease
from tests.cloud.fabric.recovering import OTHER_FINGERPRINT, allow_grace, claim, decide, recover, replacement
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import Machine, World, change, run_once

pytestmark = pytest.mark.slow

STEPS = 30


class Walk:
    """One walk. `leases` has every lease that a machine got, by generation."""

    def __init__(self, world: World, machine: Machine, seed: int) -> None:
        self.world, self.node = world, machine.node
        stranger = replacement(machine, "stranger")
        stranger.fingerprint = dict(OTHER_FINGERPRINT)
        self.machines = [machine, replacement(machine), stranger]
        self.random = random.Random(seed)
        self.leases: dict[int, list[Lease]] = {}
        self.statement = machine.held
        self.done: list[str] = []
        self._keep(machine.held)

    def _keep(self, token: str) -> None:
        statement = self.world.statement(token)
        if isinstance(statement, Lease):
            self.leases.setdefault(statement.generation, []).append(statement)

    async def step(self) -> None:
        """Do one step. A refusal is a result like any other."""
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self.ask,
            self.ask,
            self.ask_with_code,
            self.refresh,
            self.decide,
            self.decide,
            self.pass_time,
            self.stand,
        )
        chosen = self.random.choice(steps)
        self.done.append(chosen.__name__)
        try:
            await chosen()
        except Refused as error:
            self.done.append(type(error).__name__)

    async def ask(self, code: str = "") -> None:
        machine = self.random.choice(self.machines)
        key = machine.node_key
        names = self.random.choice([claim(self.node), claim(statement=self.statement)])
        try:
            answer = await recover(machine, names, code)
        except Refused:
            machine.node_key = key  # a refused machine keeps what it has
            raise
        if isinstance(answer, Activated) and self.random.random() < 0.8:
            await machine.confirm()
            self._keep(machine.held)
        if isinstance(answer, AwaitedApproval):
            machine.node_key = key
        self.done.append("waits" if isinstance(answer, AwaitedApproval) else "recovers")

    async def ask_with_code(self) -> None:
        code = (await issue(self.world, node=self.node, days=300)).codes[0]
        self.world.clock.forward(max(timedelta(), code.code.usable_from - self.world.clock()))
        await self.ask(code.secret)

    async def refresh(self) -> None:
        machine = self.random.choice([each for each in self.machines if each.activated is not None])
        machine.held = ""
        await machine.refresh(await machine.peer())
        self._keep(machine.held)

    async def decide(self) -> None:
        case = await self.world.stores.recovery_cases.latest(self.node)
        if case is not None:
            await decide(self.world, case.id, self.random.choice(["approved", "denied"]))

    async def pass_time(self) -> None:
        self.world.clock.forward(timedelta(hours=self.random.choice([1, 30, 400])))
        await self.world.parts.nodes.seen.store()
        await run_once(self.world)

    async def stand(self) -> None:
        node = await self.world.node(self.node)
        what = "resume" if node.standing == "suspended" else "suspend"
        await change(self.world, self.machines[0], "resume" if what == "resume" else "suspend")

    async def check(self) -> None:
        """Check what holds after every step."""
        stores = self.world.stores
        (node,) = await stores.nodes.page(self.world.tenant, "", "", 9)
        code = await stores.codes.find(node.code)
        assert code is not None
        assert (node.id, node.seat_held, code.seats_taken) == (self.node, True, 1)
        generations = await stores.nodes.generations(self.node)
        in_force = [row.number for row in generations if row.state == "confirmed" and row.number > node.closed_up_to]
        assert in_force in ([], [node.current_generation])
        for number, leases in self.leases.items():
            if number not in in_force:
                assert node.overlap_until is not None
                assert max(lease.terminate_at for lease in leases) <= node.overlap_until
        cases = await stores.recovery_cases.page("", self.node, "", "", 99)
        assert sum(case.state in UNFINISHED for case in cases) <= 1
        graces = [lease for leases in self.leases.values() for lease in leases if lease.recovery]
        assert all(lease.terminate_at <= lease.issued_at + timedelta(hours=72) for lease in graces)


@pytest.mark.parametrize("seed", range(3))
async def test_a_walk_leaves_one_node_in_one_seat(world: World, machine: Machine, seed: int) -> None:
    await allow_grace(world, quota=3, period_days=20)
    walk = Walk(world, machine, seed)
    for _ in range(STEPS):
        await walk.step()
        try:
            await walk.check()
        except AssertionError as error:
            raise AssertionError(f"after {walk.done}: {error}") from error
    assert {"recovers", "waits"} <= set(walk.done) or {"recovers", errors.RecoveryRefused.__name__} <= set(walk.done)
