"""`cloud.fabric.service.restored.holds`: operators see the nodes that get no new lease, and accept them."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cloud.fabric.bodies.restored import AcceptNode
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.licensing.session_evidence import SessionEvidence
from protocol.ids import NodeId, make_id
from protocol.signed.statements import Lease, Suspension
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.backups import fabric_backup, restore_fabric
from tests.cloud.fabric.support import ALICE, Machine, World, change, world_at

CONFLICTING = AcceptNode("conflicting", "seen on site")
LABELS = ("ek", "another ek", "third ek", "fourth ek")


async def listed(world: World, state: str, tenant: str = "") -> set[str]:
    return {node.id for node in (await world.parts.restored.holds.page(state, tenant, "", 10)).items}


async def test_conflicting_nodes_are_listed_and_accepted(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        code = await world.code(seats=4)
        machines = [Machine(world, label) for label in LABELS]
        for machine in machines:
            await machine.join(code.secret)
        accepted, resumed, paid, silent = machines
        await change(world, paid, "suspend", "unpaid")
        backup = await fabric_backup(world)
        await change(world, paid, "resume")
        clock.forward(timedelta(hours=13))
        for machine in (accepted, resumed, paid):
            machine.held = (await machine.session()).current.statement
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        for machine in machines:
            machine.world = world
        holds = world.parts.restored.holds
        assert await listed(world, "unpresented") == {machine.node for machine in machines}
        peers = {machine.label: await machine.peer() for machine in (accepted, resumed, paid)}
        assert await listed(world, "conflicting", world.tenant) == {accepted.node, resumed.node, paid.node}
        assert await listed(world, "unpresented") == {silent.node}
        assert await listed(world, "unconfirmed") == set()
        clock.forward(timedelta(hours=13))
        # A node that paid after the backup keeps its lease, although the database says that it is suspended.
        assert isinstance(await paid.refresh(peers[paid.label]), Lease)
        for _ in range(2):
            node = await holds.accept(ALICE, accepted.node, CONFLICTING)
            assert (node.hold, node.notice) == ("", "")
        await change(world, resumed, "resume")
        await holds.accept(ALICE, paid.node, CONFLICTING)
        for machine in (accepted, resumed, paid):
            lease = await machine.refresh(peers[machine.label])
            assert isinstance(lease, Lease)
            assert (lease.epoch, lease.issued_at) == (2, clock())
        assert (await world.node(paid.node)).standing == "active"
        assert (await world.actions(paid.node))[-1] == "node.accepted"
        # A node that never comes may be accepted too.
        await holds.accept(ALICE, silent.node, AcceptNode("unpresented"))
        assert await listed(world, "unpresented") == set()


async def test_a_suspension_ends_the_conflict_as_well(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        machine = Machine(world)
        await machine.join((await world.code()).secret)
        await change(world, machine, "suspend", "unpaid")
        backup = await fabric_backup(world)
        await change(world, machine, "resume")
        machine.held = (await machine.session()).current.statement
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = world
        peer = await machine.peer()
        with pytest.raises(Conflict, match="is conflicting"):
            await world.parts.restored.holds.accept(ALICE, machine.node, AcceptNode("unconfirmed"))
        await change(world, machine, "suspend", "unpaid")
        assert isinstance(await machine.refresh(peer), Suspension)


async def test_a_suspected_clone_ends_no_wait(home: Path, databases: Path) -> None:
    """A copy would otherwise get the lease that an operator has not allowed."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        machine = Machine(world)
        await machine.join((await world.code()).secret)
        backup = await fabric_backup(world)
        clock.forward(timedelta(hours=13))
        machine.held = (await machine.session()).current.statement
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = world
        await machine.session()
        await world.parts.nodes.seen.store()
        clock.forward(timedelta(hours=13))
        other = SessionEvidence(
            at=clock(), asked_at=clock(), clock=None, key="", fingerprint="", address="", agent_version=""
        )
        await world.parts.nodes.clones.suspect(await world.node(machine.node), 1, "fingerprint", other)
        row = await world.node(machine.node)
        assert (row.clone_cause, row.hold) == ("fingerprint", "conflicting")
        assert (await world.generation(machine.node, 1)).statement == machine.held


async def test_a_wrong_request_is_refused(world: World, machine: Machine) -> None:
    holds = world.parts.restored.holds
    with pytest.raises(Invalid, match="state"):
        await holds.page("odd", "", "", 10)
    with pytest.raises(NotFound):
        await holds.page("conflicting", make_id("ten", 9, bytes(10)), "", 10)
    with pytest.raises(NotFound):
        await holds.accept(ALICE, NodeId(make_id("node", 9, bytes(10))), CONFLICTING)
    with pytest.raises(Invalid):
        await holds.accept(ALICE, machine.node, msgspec.structs.replace(CONFLICTING, reason="\x00"))
    before = await world.node(machine.node)
    await holds.accept(ALICE, machine.node, CONFLICTING)
    assert await world.node(machine.node) == before
