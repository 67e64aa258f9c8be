"""`cloud.fabric.service.nodes.revocation_delivery`: a superseded generation that asks is recorded and audited once."""

from datetime import timedelta

import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.service.nodes.revocation_delivery import is_superseded
from protocol.messages.sessions import Ask
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.store.support import NOW, generation, node
from tests.cloud.fabric.support import NONCE, Machine, World, change

NOTICE = "the same chip asks with a superseded generation: possibly a clone"


async def shown(world: World, machine: Machine) -> schemas.Node:
    """The node as operators see it, after everything is stored."""
    await world.parts.nodes.seen.store()
    detail = (await world.parts.operators.node_lists.detail(machine.node)).node
    listed = (await world.parts.operators.node_lists.page("", "", "", 10)).items
    assert detail in listed
    return detail


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_the_copy_of_a_machine_makes_the_original_a_superseded_generation(world: World) -> None:
    code = await world.code()
    original, copy = Machine(world), Machine(world)
    await original.join(code.secret)
    await copy.join(code.secret)
    assert copy.node == original.node
    assert (await shown(world, copy)).notice == ""
    asked = world.clock()
    for _ in range(3):
        with pytest.raises(errors.GenerationClosed):
            await original.session()
        world.clock.forward(timedelta(minutes=1))
    view = await shown(world, copy)
    assert (view.superseded_asked_generation, view.notice) == (1, NOTICE)
    assert view.superseded_asked_at == asked + timedelta(minutes=2)
    actions = await world.actions(copy.node)
    assert (actions.count("revocation.delivered"), actions.count("node.superseded_asked")) == (1, 1)
    assert (await copy.session()).current.statement


async def test_the_original_comes_back_with_any_open_code_and_the_copy_asks_then(world: World) -> None:
    original, copy = Machine(world), Machine(world)
    await original.join((await world.code()).secret)
    await copy.join((await world.code()).secret)
    with pytest.raises(errors.GenerationClosed):
        await original.session()
    lease = await original.join((await world.code()).secret)
    assert lease.generation == 3
    with pytest.raises(errors.GenerationClosed):
        await copy.session()
    assert (await shown(world, original)).superseded_asked_generation == 2
    assert (await world.actions(original.node)).count("node.superseded_asked") == 2


async def test_a_superseded_generation_that_asks_over_its_old_session_is_recorded(world: World) -> None:
    """It was running when the copy was activated. The guard refuses it, and the statement's route does."""
    original, copy = Machine(world), Machine(world)
    await original.join((await world.code()).secret)
    peer = await original.peer()
    await copy.join((await world.code()).secret)
    assert (await world.parts.nodes.statements.closed_answer(peer)).statement
    world.clock.forward(timedelta(minutes=1))
    with pytest.raises(errors.GenerationClosed):
        await world.parts.nodes.statements.statement(peer, Ask(NONCE))
    view = await shown(world, copy)
    assert (view.superseded_asked_at, view.superseded_asked_generation) == (world.clock(), 1)
    assert (await world.actions(copy.node)).count("node.superseded_asked") == 1


async def test_a_revoked_node_that_asks_is_no_sign_of_a_clone(world: World, machine: Machine) -> None:
    await change(world, machine, "revoke")
    for _ in range(2):
        with pytest.raises(errors.GenerationClosed):
            await machine.session()
    view = await shown(world, machine)
    assert (view.superseded_asked_at, view.superseded_asked_generation, view.notice) == (None, 0, "")
    assert "node.superseded_asked" not in await world.actions(machine.node)


@pytest.mark.parametrize(
    ("number", "current", "confirmed", "superseded"),
    [(1, 2, True, True), (1, 2, False, False), (2, 2, True, False), (1, 0, False, False)],
)
def test_only_a_generation_that_was_in_force_is_superseded(
    number: int, current: int, confirmed: bool, superseded: bool
) -> None:
    row = generation(number=number, confirmed_at=NOW if confirmed else None)
    assert is_superseded(node(current_generation=current), row) is superseded
