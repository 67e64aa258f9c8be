"""`cloud.fabric.service.restored.rebuilding`: a rebuild is begun and ended by an operator, and closes are imported."""

from datetime import timedelta

import pytest

from cloud.fabric.bodies.restored import BeginRebuild, ChangeRebuild, ClosedGenerations, ImportClosed
from cloud.fabric.errors import GenerationClosed, Invalid, NodeUnknown
from cloud.storage import Statement
from protocol.ids import NodeId, make_id
from tests.cloud.fabric.support import ALICE, Machine, World, run_once

WHY, END = BeginRebuild("the database is lost"), ChangeRebuild("the nodes are back")


async def test_begin_and_end_are_audited_once(world: World) -> None:
    rebuilds = world.parts.restored.rebuilds
    begun = await rebuilds.begin(ALICE, WHY)
    assert begun.since == world.clock()
    assert await rebuilds.begin(ALICE, WHY) == begun == await rebuilds.show()
    for _ in range(2):
        assert (await rebuilds.end(ALICE, END)).since is None
    actions = [action for action in await world.actions("") if action.startswith("rebuild.")]
    assert actions == ["rebuild.begun", "rebuild.ended"]
    with pytest.raises(Invalid):
        await rebuilds.begin(ALICE, BeginRebuild("\x00"))


async def test_a_rebuild_ends_by_itself(world: World, machine: Machine) -> None:
    rebuilds = world.parts.restored.rebuilds
    now, day = world.clock(), timedelta(days=1)
    for until in (now, now + 91 * day):
        with pytest.raises(Invalid, match="until"):
            await rebuilds.begin(ALICE, BeginRebuild(until=until))
    assert (await rebuilds.begin(ALICE, WHY)).until == now + 30 * day
    begun = await rebuilds.begin(ALICE, BeginRebuild(until=now + 2 * day))
    assert (begun.since, begun.until) == (now, now + 2 * day)
    await rebuilds.end_overdue()
    assert (await rebuilds.begin(ALICE, WHY)).until == now + 2 * day
    machine.held = (await machine.session()).current.statement
    for table in ("node", "generation"):
        await world.stores.engine.fetch(Statement(f"DELETE FROM {table}"))  # noqa: S608  (names of tables)
    world.clock.forward(2 * day)
    with pytest.raises(NodeUnknown):
        await machine.session()
    for _ in range(2):
        assert (await rebuilds.show()).since is None
        await rebuilds.end_overdue()
    actions = [action for action in await world.actions("") if action.startswith("rebuild.")]
    assert actions == ["rebuild.begun", "rebuild.end_set", "rebuild.ended"]
    assert (await rebuilds.begin(ALICE, WHY)).since == world.clock()
    assert (await machine.session()).current.statement == machine.held


async def test_an_import_closes_what_is_known_and_remembers_the_rest(world: World, machine: Machine) -> None:
    unknown = NodeId(make_id("node", 9, bytes(10)))
    body = ImportClosed(
        (ClosedGenerations(machine.node, world.tenant, 1), ClosedGenerations(unknown, world.tenant, 3)), ("0a", "0b")
    )
    rebuilds = world.parts.restored.rebuilds
    assert [(await rebuilds.import_closed(ALICE, body)).imported for _ in range(2)] == [4, 0]
    row = await world.node(machine.node)
    assert (row.standing, row.closed_up_to) == ("revoked", 1)
    with pytest.raises(GenerationClosed):
        await machine.session()
    closed = await world.stores.closed.find(unknown)
    assert closed is not None
    assert closed.includes(3)
    await run_once(world)
    assert not await world.issuer.generations.is_open(world.tenant, machine.node, 1)
    assert [action for action in await world.actions("") if action.startswith("rebuild.")] == ["rebuild.imported"]
