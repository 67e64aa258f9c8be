"""`cloud.fabric.service.nodes.lapse`: unfinished activations end, and each seat is freed exactly once."""

import asyncio
from datetime import timedelta

import pytest

from cloud.fabric import errors, schemas
from protocol.messages.sessions import Ask
from protocol.signed.statements import Lease
from tests.cloud.fabric.support import NONCE, Machine, World, change, run_once


async def test_an_unconfirmed_first_activation_lapses_and_frees_the_seat(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.activate(code.secret)
    peer = await machine.peer()
    world.clock.forward(timedelta(hours=24))
    world.issuer.down = True
    await run_once(world)
    assert (await world.activation_of(machine.node, 1)).state == "lapsing"
    assert await world.seats_taken(code) == 1
    with pytest.raises(errors.GenerationClosed):
        await world.parts.nodes.confirmations.confirm(peer, Ask(NONCE))
    world.issuer.down = False
    await run_once(world)
    assert (await world.activation_of(machine.node, 1)).state == "lapsed"
    assert await world.seats_taken(code) == 0
    again = Machine(world)
    assert (await again.join(code.secret)).generation == 2
    assert again.node == machine.node
    assert await world.seats_taken(code) == 1


async def test_a_lapsed_reactivation_leaves_node_and_seat_alone(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.join(code.secret)
    other = Machine(world)
    await other.activate(code.secret)
    world.clock.forward(timedelta(hours=24))
    await run_once(world)
    assert (await world.activation_of(machine.node, 2)).state == "lapsed"
    with pytest.raises(errors.GenerationClosed):
        await other.session()
    row = await world.node(machine.node)
    assert (row.current_generation, row.closed_up_to, row.seat_held) == (1, 0, True)
    assert isinstance(await machine.refresh(await machine.peer()), Lease)


@pytest.mark.parametrize("first", ["confirm", "lapse"])
async def test_lapse_and_confirm_race_to_one_end(world: World, first: str) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.activate(code.secret)
    peer = await machine.peer()
    row = await world.activation_of(machine.node, 1)
    runs = [world.parts.nodes.confirmations.confirm(peer, Ask(NONCE)), world.parts.nodes.lapses.begin(row)]
    results = await asyncio.gather(*(runs if first == "confirm" else reversed(runs)), return_exceptions=True)
    state = (await world.activation_of(machine.node, 1)).state
    node = await world.node(machine.node)
    if state == "confirmed":
        assert (node.current_generation, node.closed_up_to) == (1, 0)
        assert False in results
    else:
        assert (state, node.current_generation, node.closed_up_to) == ("lapsing", 0, 1)
        assert any(isinstance(result, errors.GenerationClosed) for result in results)
    await run_once(world)
    assert await world.seats_taken(code) == node.current_generation


async def test_a_lapsed_return_of_a_released_node_gives_its_seat_back(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.join(code.secret)
    await change(world, machine, "release")
    await Machine(world).activate(code.secret)
    assert await world.seats_taken(code) == 1
    world.clock.forward(timedelta(hours=24))
    await run_once(world)
    assert await world.seats_taken(code) == 0
    row = await world.node(machine.node)
    assert (row.standing, row.seat_held, row.closed_at_issuer) == ("released", False, 2)


async def test_a_lapsed_readmission_leaves_the_seat_to_the_last_lease(world: World) -> None:
    code = await world.code()
    machine = Machine(world)
    await machine.join(code.secret)
    await change(world, machine, "revoke")
    world.clock.forward(timedelta(seconds=1))
    await Machine(world).activate((await world.code(readmit=machine.node)).secret)
    world.clock.forward(timedelta(hours=24))
    await run_once(world)
    assert (await world.activation_of(machine.node, 2)).state == "lapsed"
    assert await world.seats_taken(code) == 1
    world.clock.forward(timedelta(days=60))
    await run_once(world)
    assert await world.seats_taken(code) == 0


SHORT = schemas.LeaseTerms(60, 120, 180, 240)


async def test_the_seat_of_a_revoked_node_is_free_when_its_last_lease_terminated(world: World) -> None:
    code = await world.code(lease=SHORT)
    machine = Machine(world)
    await machine.join(code.secret)
    await change(world, machine, "revoke")
    world.clock.forward(timedelta(seconds=239))
    await run_once(world)
    assert await world.seats_taken(code) == 1
    world.clock.forward(timedelta(seconds=1))
    await run_once(world)
    await run_once(world)
    assert await world.seats_taken(code) == 0
    assert (await world.node(machine.node)).seat_held is False
    assert (await world.actions(machine.node)).count("seat.freed") == 1
