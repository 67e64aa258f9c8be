"""`cloud.fabric.service.nodes.replaced`: the replaced machine returns, and the flag shows the evidence of both machines."""

import pytest

from cloud.fabric import errors
from cloud.fabric.service.nodes.clones import read_holders
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.sessions import Ask
from protocol.signed.statements import Lease
from tests.cloud.fabric.recovering import case_of, claim, recovered, replacement, send
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import NONCE, Machine, World, decide

pytestmark = pytest.mark.slow


async def replaced_by(world: World, machine: Machine) -> Machine:
    """Another machine that has recovered the node of `machine` and opened a session."""
    new = replacement(machine)
    code = (await issue(world, node=machine.node)).codes[0]
    await recovered(new, claim(machine.node), code.secret)
    await world.parts.nodes.seen.store()
    return new


async def test_a_session_of_the_replaced_machine_raises_the_flag_once(world: World, machine: Machine) -> None:
    await replaced_by(world, machine)
    assert (await world.node(machine.node)).clone_cause == ""
    for _ in range(2):
        with pytest.raises(errors.GenerationClosed):
            await machine.session()
    node = await world.node(machine.node)
    assert (node.clone_cause, node.current_generation) == ("replaced", 2)
    holders = read_holders((await world.generation(machine.node, 2)).holders)
    assert holders is not None
    assert [each.state for each in holders.all] == ["current", "older"], "the evidence of both machines"
    case = await case_of(world, machine.node)
    assert case.returned_at == world.clock()
    assert (await world.actions(case.id)).count("recovery.old_machine_returned") == 1
    assert (await world.actions(machine.node)).count("node.clone_suspected") == 1


async def test_a_running_replaced_machine_raises_the_flag_too(world: World, machine: Machine) -> None:
    peer = await machine.peer()
    new = await replaced_by(world, machine)
    session = await new.peer()
    with pytest.raises(errors.GenerationClosed):
        await world.parts.nodes.statements.statement(peer, Ask(NONCE, machine.held))
    assert (await world.node(machine.node)).clone_cause == "replaced"
    lease = await new.refresh(session)
    assert isinstance(lease, Lease)
    assert lease.clone_suspected


async def test_an_old_machine_that_asks_at_once_is_noticed(world: World, machine: Machine) -> None:
    """It is online when the new machine confirms, learns that it is closed, and never asks again."""
    new = replacement(machine)
    code = (await issue(world, node=machine.node)).codes[0]
    await recovered(new, claim(machine.node), code.secret)  # its session is not stored yet
    with pytest.raises(errors.GenerationClosed):
        await machine.session()
    assert (await case_of(world, machine.node)).returned_at == world.clock()
    assert (await world.node(machine.node)).clone_cause == "replaced"


async def test_an_old_machine_that_asked_at_another_replica_is_noticed_at_the_next_session(
    world: World, machine: Machine
) -> None:
    new = await replaced_by(world, machine)
    await world.stores.nodes.set_superseded_asked(machine.node, 1, world.clock())
    await new.session()
    assert (await world.node(machine.node)).clone_cause == "replaced"
    assert (await case_of(world, machine.node)).returned_at == world.clock()


async def test_a_replaced_chip_with_an_activation_code_waits_for_a_person(world: World, machine: Machine) -> None:
    """It is neither a new node with another seat, nor does it take the node back by itself."""
    await replaced_by(world, machine)
    code = await world.code()
    challenge = await machine.start(code.secret)
    body = machine.proof(challenge)
    assert isinstance(await send(machine, challenge, body), AwaitedApproval)
    node = await world.node(machine.node)
    assert (node.clone_cause, node.current_generation, await world.seats_taken(code)) == ("replaced", 2, 0)
    shown = await decide(world, challenge.activation, "approved", "the old board was repaired")
    assert (shown.node, shown.matched) == (machine.node, "replaced")
    answer = await send(machine, challenge, body)
    assert isinstance(answer, Activated)
    assert (answer.node, answer.generation) == (machine.node, 3)
    await machine.confirm()
    assert (await world.node(machine.node)).ek_hash == (await case_of(world, machine.node)).old_ek_hash


async def test_the_old_disk_of_a_reinstalled_machine_is_no_other_machine(world: World, machine: Machine) -> None:
    old = Machine(world, activated=machine.activated, node_key=machine.node_key)
    code = (await issue(world, node=machine.node)).codes[0]
    await recovered(machine, claim(machine.node), code.secret)
    await world.parts.nodes.seen.store()
    with pytest.raises(errors.GenerationClosed):
        await old.session()
    assert (await world.node(machine.node)).clone_cause == ""
