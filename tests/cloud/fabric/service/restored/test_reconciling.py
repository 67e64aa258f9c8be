"""`cloud.fabric.service.restored.reconciling`: each side takes from the other what its restored database has forgotten."""

from datetime import timedelta
from pathlib import Path

import pytest

from cloud.fabric import errors
from protocol.ids import NodeId, TenantId
from protocol.limits import CONFIRM_WITHIN
from protocol.signed.statements import Revocation
from tests.cloud.breakwater.support import Clock
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.asgi import api_of
from tests.cloud.fabric.backups import breakwater_backup, fabric_backup, restore_breakwater, restore_fabric
from tests.cloud.fabric.support import Machine, World, change, run_once, world_at

LABELS = ("ek", "another ek", "third ek", "fourth ek", "fifth ek", "sixth ek")


async def joined(world: World) -> list[Machine]:
    """Machines that have confirmed."""
    code = await world.code(seats=10)
    machines = [Machine(world, label) for label in LABELS]
    for machine in machines[:-1]:
        await machine.join(code.secret)
    return machines


async def compared(
    world: World, *, dry_run: bool = False
) -> tuple[set[tuple[str, int, str]], set[tuple[str, int, str]]]:
    """The changes and the commands of a comparison."""
    found = await world.parts.restored.reconciling.run("a test", dry_run=dry_run)
    assert (found.taken_count, found.sent_count, found.refused) == (len(found.taken), len(found.sent), ())
    return (
        {(each.node, each.generation, each.change) for each in found.taken},
        {(each.node, each.generation, each.order) for each in found.sent},
    )


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_restored_fabric_takes_what_breakwater_has_closed(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        revoked, again, stays, released, lapsing, unknown = machines = await joined(world)
        await lapsing.activate((await world.code()).secret)
        backup = await fabric_backup(world)
        await change(world, revoked, "revoke")
        await change(world, released, "release")
        await again.join((await world.code()).secret)
        await unknown.join((await world.code()).secret)
        await change(world, unknown, "revoke")
        clock.forward(CONFIRM_WITHIN + timedelta(seconds=1))
        await run_once(world)
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        for machine in machines:
            machine.world = world
        api, reconciling = api_of(world), world.parts.restored.reconciling
        # No node is served before.
        answer = await api.ask("POST", "/v1/node/nonces")
        assert (answer.status, answer.code) == (503, "unavailable")
        (fault, *_) = (await world.parts.readiness.report()).faults
        assert (fault.code, fault.needed) == ("not_reconciled", True)
        expected = {
            (revoked.node, 1, "revoked"),
            (released.node, 1, "revoked"),
            (again.node, 1, "closed"),
            (again.node, 2, "later"),
            (lapsing.node, 2, "lapsed"),
            (unknown.node, 1, "remembered"),
        }
        assert await compared(world, dry_run=True) == (expected, set())
        assert not (await world.node(revoked.node)).closed_up_to
        world.issuer.down = True
        await run_once(world)
        assert "switched it off" in (await world.parts.readiness.report()).faults[0].cause
        world.issuer.down = False
        await run_once(world)
        assert (await api.ask("POST", "/v1/node/nonces")).status == 200
        assert not reconciling.pending.waits
        for machine in (revoked, released):
            row = await world.node(machine.node)
            assert (row.standing, row.closed_up_to, row.seat_held) == ("revoked", 1, True)
            with pytest.raises(errors.GenerationClosed) as refusal:
                await machine.session()
            assert isinstance(world.statement(refusal.value.statement), Revocation)
        row = await world.node(again.node)
        assert (row.standing, row.hold, row.closed_up_to, row.last_generation) == ("active", "conflicting", 1, 2)
        assert (await world.generation(lapsing.node, 2)).state == "closed"
        row = await world.node(lapsing.node)
        assert (row.standing, row.seat_held, row.closed_up_to) == ("active", True, 0)
        closed = await world.stores.closed.find(unknown.node)
        assert closed is not None
        assert (closed.includes(1), closed.includes(2)) == (True, False)
        assert (await stays.session()).current.statement
        # A repeat finds nothing.
        assert await compared(world) == (set(), set())


async def test_a_restored_breakwater_is_sent_what_fabric_has_closed_and_opened(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        revoked, again, _, _, lapsing, new = await joined(world)
        await lapsing.activate((await world.code()).secret)
        backup = await breakwater_backup(world)
        await change(world, revoked, "revoke")
        await again.join((await world.code()).secret)
        await new.join((await world.code()).secret)
        clock.forward(CONFIRM_WITHIN + timedelta(seconds=1))
        await run_once(world)
        await restore_breakwater(world, backup)
        expected = {
            (revoked.node, 1, "close-up-to"),
            (again.node, 1, "close-up-to"),
            (again.node, 2, "open"),
            (lapsing.node, 2, "close"),
            (new.node, 1, "open"),
        }
        assert await compared(world, dry_run=True) == (set(), expected)
        with pytest.raises(errors.IssuerUnavailable):
            await new.session()
        calls = len(world.issuer.calls)
        await run_once(world)  # Fabric finds out by itself
        assert len(world.issuer.calls) == calls + len(expected)
        assert (await new.session()).current.statement
        is_open = world.issuer.generations.is_open
        assert [await is_open(world.tenant, NodeId(node), 1) for node in (revoked.node, again.node)] == [False, False]
        assert await compared(world) == (set(), set())
        calls = len(world.issuer.calls)
        await run_once(world)
        assert len(world.issuer.calls) == calls
        assert "installation.reconciled" in await world.actions("")


async def test_a_refused_command_stops_nothing(world: World) -> None:
    code = await world.code(seats=2)
    one, other = [Machine(world, label) for label in LABELS[:2]]
    for machine in (one, other):
        await machine.join(code.secret)
    backup = await breakwater_backup(world)
    for machine in (one, other):
        await change(world, machine, "revoke")
    await run_once(world)
    await restore_breakwater(world, backup)
    close = world.issuer.close_generations

    async def refuse_one(tenant: TenantId, node: NodeId, up_to: int) -> None:
        if node == one.node:
            raise errors.IssuerRefused("conflict", "a test")
        await close(tenant, node, up_to)

    world.issuer.close_generations = refuse_one  # type: ignore[method-assign]
    found = await world.parts.restored.reconciling.run("a test")
    assert [each.node for each in found.refused] == [one.node]
    assert [each.node for each in found.sent] == [other.node]
