"""Seats, generations and standing under random orders of actions by nodes, operators, clock and issuer.

There are two chips, and a few codes with few seats. After every action, the taken seats of a code are those of the
nodes that hold one. When all work is finished, no node holds a seat without need, and the issuer has closed every
generation that Fabric has closed.
"""

import asyncio
import random
from datetime import timedelta

import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.licensing.standing import Change
from cloud.fabric.store.rows import NodeRow
from tests.cloud.fabric.support import Machine, World, change, run_once

pytestmark = pytest.mark.slow

ACTS_A_RUN = 60
RUNS = 12
LABELS = ("ek", "another ek")
SHORT = schemas.LeaseTerms(60, 120, 180, 240)
CHANGES: tuple[Change, ...] = ("suspend", "resume", "revoke", "release")


class Run:
    """One run: the world, the random generator, and the objects made so far."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.codes: list[schemas.CreatedCode] = []
        self.machines: list[Machine] = []

    async def activate(self) -> None:
        machine = Machine(self.world, self.dice.choice(LABELS))
        await machine.activate(self.dice.choice(self.codes).secret)
        self.machines.append(machine)

    async def activate_in_vain(self) -> None:
        """The issuer is unavailable at the proof, or refuses the CSR."""

        def refuse(name: str) -> None:
            if name == "device":
                raise self.dice.choice([errors.IssuerUnavailable(""), errors.IssuerRefused("csr_refused", "")])

        self.world.issuer.before = refuse
        try:
            await self.activate()
        finally:
            self.world.issuer.before = lambda name: None

    async def confirm(self) -> None:
        await self.dice.choice(self.machines).confirm()

    async def change(self) -> None:
        await change(self.world, self.dice.choice(self.machines), self.dice.choice(CHANGES))

    async def race(self) -> None:
        await asyncio.gather(self.confirm(), self.change(), run_once(self.world), return_exceptions=True)

    async def readmit(self) -> None:
        node = self.dice.choice(self.machines).node
        self.codes.append(await self.world.code(readmit=node, lease=SHORT))

    async def drive(self) -> None:
        self.world.issuer.down = self.dice.random() < 0.3
        await run_once(self.world)
        self.world.issuer.down = False

    async def wait(self) -> None:
        self.world.clock.forward(self.dice.choice([timedelta(seconds=100), timedelta(hours=25)]))

    async def act(self) -> None:
        acts = [self.activate, self.activate_in_vain, self.drive, self.wait]
        if self.machines:
            acts += [self.activate, self.confirm, self.confirm, self.change, self.change, self.race, self.readmit]
        try:
            await self.dice.choice(acts)()
        except (errors.Refused, errors.IssuerUnavailable, errors.IssuerRefused):
            return  # A refusal is allowed here. The test checks the state that it leaves.

    async def check(self) -> list[NodeRow]:
        """Check the conditions that hold after every action."""
        nodes = await self.world.stores.nodes.page("", "", "", 10)
        for code in self.codes:
            held = [node for node in nodes if node.seat_held and node.code == code.code.id]
            assert await self.world.seats_taken(code) == len(held) <= code.code.seats
        for node in nodes:
            rows = await self.world.stores.nodes.open_generations(node.id, node.last_generation)
            confirmed = [row.number for row in rows if row.state == "confirmed"]
            assert confirmed in ([], [node.current_generation])
            assert all(row.number > node.closed_up_to for row in rows)
            assert node.seat_held or not rows
            assert not (confirmed and node.standing in ("revoked", "released"))
            assert await self.world.stores.activations.count_live(node.id) == len(rows) - len(confirmed)
        return nodes


@pytest.mark.parametrize("seed", range(RUNS))
async def test_no_seat_leaks_and_no_generation_lives_twice(world: World, seed: int) -> None:
    run = Run(world, seed)
    run.codes += [await world.code(seats=2, lease=SHORT), await world.code(lease=SHORT)]
    for _ in range(ACTS_A_RUN):
        await run.act()
        await run.check()
    for _ in range(4):
        world.clock.forward(timedelta(hours=25))
        await run_once(world)
    for node in await run.check():
        alive = await world.stores.nodes.open_generations(node.id, node.last_generation)
        assert node.seat_held == bool(alive)
        for row in await world.stores.nodes.generations(node.id):
            is_open = await world.issuer.generations.is_open(node.tenant, node.id, row.number)
            assert is_open == (row in alive)
