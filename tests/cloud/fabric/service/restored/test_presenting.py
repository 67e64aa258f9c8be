"""`cloud.fabric.service.restored.presenting`: what nodes present after a restore, taken up with standing and lease."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.fabric import errors
from cloud.fabric.bodies.restored import AcceptNode
from protocol.limits import CONFIRM_WITHIN
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.breakwater.support import Clock
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.backups import Backup, fabric_backup, restore_fabric
from tests.cloud.fabric.recovering import allow_grace, case_of, claim, decide, recover, replacement, send, waits
from tests.cloud.fabric.support import ALICE, Machine, World, change, run_once, world_at

HOUR = timedelta(hours=1)
LABELS = ("ek", "another ek", "third ek", "fourth ek", "fifth ek", "sixth ek")


@asynccontextmanager
async def restored(home: Path, databases: Path, clock: Clock, *machines: Machine) -> AsyncIterator[World]:
    """Fabric after the restore, with the same machines."""
    async with world_at(home, databases, clock, first=False) as world:
        for machine in machines:
            machine.world = world
        yield world


async def joined(world: World, count: int) -> tuple[list[Machine], Backup]:
    """Machines that have confirmed, and a backup made after that."""
    code = await world.code(seats=count)
    machines = [Machine(world, label) for label in LABELS[:count]]
    for machine in machines:
        await machine.join(code.secret)
    return machines, await fabric_backup(world)


async def asked(world: World, machine: Machine) -> Lease | Suspension | Revocation:
    """The statement that a new session answers."""
    current = (await machine.session()).current
    return world.statement(current.statement)


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_each_node_gets_what_its_last_statement_allows(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        machines, backup = await joined(world, 6)
        behind, ahead, suspended, revoked, released, unsent = machines
        first = {machine.label: world.statement(machine.held) for machine in machines}
        clock.forward(13 * HOUR)
        ahead.held = (await ahead.session()).current.statement
        for machine, what in ((suspended, "suspend"), (revoked, "revoke"), (released, "release")):
            await change(world, machine, what)  # type: ignore[arg-type]  # the names of changes
            machine.held = (await world.generation(machine.node, 1)).statement
        await restore_fabric(world, backup)
    async with restored(home, databases, clock, *machines) as world:
        clock.forward(HOUR)
        # An equal statement: leases as usual, in the new epoch.
        lease = await asked(world, behind)
        assert isinstance(lease, Lease)
        assert (lease.epoch, lease.issued_at) == (2, clock())
        # No statement: as usual too, because an older one would show no more.
        unsent.held = ""
        assert (await asked(world, unsent)).epoch == 2
        # A later lease: kept, and no later dates.
        held = world.statement(ahead.held)
        assert isinstance(held, Lease)
        assert (held.epoch, held.seq) == (1, 2)
        for _ in range(2):
            assert await asked(world, ahead) == held != first[ahead.label]
            clock.forward(13 * HOUR)
        row = await world.node(ahead.node)
        assert (row.hold, row.lease_until) == ("conflicting", held.terminate_at)
        # A suspension, a revocation, a release: adopted with the standing.
        answer = await asked(world, suspended)
        assert isinstance(answer, Suspension)
        assert (answer.epoch, (await world.node(suspended.node)).standing) == (2, "suspended")
        for machine, standing, seat in ((revoked, "revoked", True), (released, "released", False)):
            assert isinstance(await asked(world, machine), Revocation)
            row = await world.node(machine.node)
            assert (row.standing, row.seat_held, row.closed_up_to) == (standing, seat, 1)
            assert (await world.actions(machine.node))[-1] == "node.revoked_adopted"
            with pytest.raises(errors.GenerationClosed):
                await machine.session()
        await run_once(world)
        assert (await world.node(revoked.node)).closed_at_issuer == 1


async def test_a_statement_that_proves_nothing_leaves_the_node_waiting(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (one, other), backup = await joined(world, 2)
        await restore_fabric(world, backup)
    async with restored(home, databases, clock, one, other) as world:
        clock.forward(13 * HOUR)
        lease = world.statement(one.held)
        for foreign in (other.held, "no statement", other.held[:-4] + "AAAA"):
            one.held = foreign
            assert await asked(world, one) == lease
        assert (await world.node(one.node)).presented_epoch == 1
        # An operator's decision counts in the new epoch. So does a re-activation.
        await change(world, one, "suspend")
        assert (await asked(world, one)).epoch == 2
        await change(world, one, "resume")
        assert (await world.node(one.node)).presented_epoch == 2
        renewed = await other.join((await world.code()).secret)
        assert (renewed.epoch, renewed.generation) == (2, 2)
        assert (await world.node(other.node)).presented_epoch == 2


async def test_a_node_of_an_epoch_that_was_lost_too_gets_later_positions(home: Path, databases: Path) -> None:
    """The same backup was restored twice, so the second restore begins the same epoch again."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,), backup = await joined(world, 1)
        await restore_fabric(world, backup)
    async with restored(home, databases, clock, machine) as world:
        for _ in range(3):
            clock.forward(13 * HOUR)
            machine.held = (await machine.session()).current.statement
        assert (world.statement(machine.held).epoch, world.statement(machine.held).seq) == (2, 4)
        await restore_fabric(world, backup)
    async with restored(home, databases, clock, machine) as world:
        assert (await asked(world, machine)).seq == 4
        await change(world, machine, "suspend")
        await change(world, machine, "resume")
        assert ((await asked(world, machine)).epoch, (await asked(world, machine)).seq) == (2, 6)


async def test_an_activation_that_was_confirmed_after_the_backup_stays_confirmed(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        code = await world.code(seats=2)
        first, again = Machine(world), Machine(world, "another ek")
        await again.join(code.secret)
        for machine in (first, again):
            await machine.activate(code.secret)
        backup = await fabric_backup(world)
        for machine in (first, again):
            await machine.confirm()
        await run_once(world)
        await restore_fabric(world, backup)
    async with restored(home, databases, clock, first, again) as world:
        clock.forward(CONFIRM_WITHIN + HOUR)
        for _ in range(2):
            await run_once(world)  # the time for the confirm is over
        for machine, number in ((first, 1), (again, 2)):
            held = world.statement(machine.held)
            assert await asked(world, machine) == held
            row = await world.node(machine.node)
            assert (row.current_generation, row.hold, row.standing) == (number, "conflicting", "active")
            assert (await world.generation(machine.node, number)).state == "confirmed"
            assert (await world.activation_of(machine.node, number)).state == "confirmed"
            await change(world, machine, "resume")
            assert (await asked(world, machine)).epoch == 2
        assert await world.seats_taken(code) == 2


@pytest.mark.parametrize("approved", [False, True])
async def test_a_recovery_that_was_confirmed_after_the_backup_has_its_chip_and_its_case(
    home: Path, databases: Path, approved: bool
) -> None:
    """Another TPM recovers the node, on a grace lease or after an approval."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        (machine,), _ = await joined(world, 1)
        new = replacement(machine)
        if approved:
            challenge, body = await waits(new, claim(machine.node))
            await decide(world, (await case_of(world, machine.node)).id, "approved")
            await send(new, challenge, body)
        else:
            await allow_grace(world)
            await recover(new, claim(machine.node))
        backup = await fabric_backup(world)
        held = await new.confirm()
        assert isinstance(held, Lease)
        confirmed, case, row = [
            await world.node(new.node),
            await case_of(world, new.node),
            await world.generation(new.node, 2),
        ]
        await restore_fabric(world, backup)
        assert (await world.node(new.node)).ek_hash != confirmed.ek_hash
    async with restored(home, databases, clock, machine, new) as world:
        clock.forward(HOUR)
        assert await asked(world, new) == held
        node, generation = await world.node(new.node), await world.generation(new.node, 2)
        assert (node.ek_hash, node.enrolled, node.hold) == (confirmed.ek_hash, confirmed.enrolled, "conflicting")
        assert (generation.recovery, generation.grace_until) == (row.recovery, row.grace_until)
        assert await case_of(world, new.node) == case
        assert case.state == ("consumed" if approved else "eligible")
        with pytest.raises(errors.GenerationClosed):
            await machine.session()
        await world.parts.restored.holds.accept(ALICE, new.node, AcceptNode("conflicting"))
        lease = await asked(world, new)
        assert isinstance(lease, Lease)
        if approved:
            assert lease.terminate_at > held.terminate_at
        else:  # the grace has its own end, until an operator decides about the case
            assert (lease.terminate_at, lease.recovery) == (held.terminate_at, case.id)
            await decide(world, case.id, "approved")
            lease = await asked(world, new)
            assert isinstance(lease, Lease)
            assert lease.terminate_at > held.terminate_at
        # The chip is known: its next activation is the same node.
        assert (await new.activate((await world.code()).secret)).node == node.id
