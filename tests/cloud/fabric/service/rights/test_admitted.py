"""`cloud.fabric.service.rights.admitted`: a code or tenant that stops to admit a machine stops it at every step.

What an operator or the clock changes between two steps of an activation counts at the next commit, however long before
the machine has proved its chip.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from cloud.fabric import errors, schemas
from tests.cloud.fabric.support import ALICE, Machine, World, run_once

Ending = Callable[[World, schemas.CreatedCode], Awaitable[object]]
LIFE = timedelta(minutes=5)


async def revoke(world: World, code: schemas.CreatedCode) -> None:
    await world.parts.operators.codes.revoke(ALICE, code.code.id)


async def expire(world: World, code: schemas.CreatedCode) -> None:
    world.clock.forward(code.code.expires_at - world.clock())


async def drop_tier(world: World, _code: schemas.CreatedCode) -> None:
    await world.parts.operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("tpm",)))


ENDINGS = pytest.mark.parametrize(
    ("ending", "refusal"),
    [(revoke, errors.CodeRevoked), (expire, errors.CodeExpired), (drop_tier, errors.TierNotAllowed)],
)


async def no_seat_is_left(world: World, machine: Machine, code: schemas.CreatedCode) -> None:
    """The activation has lapsed at once: seat and generation are free at Fabric and closed at the issuer."""
    await run_once(world)
    assert await world.seats_taken(code) == 0
    assert (await world.activation_of(machine.node, 1)).state == "lapsed"
    assert not await world.issuer.generations.is_open(world.tenant, machine.node, 1)


@ENDINGS
async def test_at_the_proof(world: World, ending: Ending, refusal: type[errors.Refused]) -> None:
    code, machine = await world.code(life=LIFE), Machine(world)
    challenge = await machine.start(code.secret)
    await ending(world, code)
    with pytest.raises(refusal):
        await machine.prove(challenge, machine.proof(challenge))
    assert await world.seats_taken(code) == 0


@ENDINGS
async def test_while_the_issuer_works(world: World, ending: Ending, refusal: type[errors.Refused]) -> None:
    code, machine = await world.code(life=LIFE), Machine(world)
    challenge = await machine.start(code.secret)
    issue_device = world.issuer.issue_device

    async def slow(*arguments: object) -> object:
        made = await issue_device(*arguments)  # type: ignore[arg-type]  # passed on as they came
        await ending(world, code)
        return made

    world.issuer.issue_device = slow  # type: ignore[method-assign, assignment]  # as above
    body = machine.proof(challenge)
    with pytest.raises(refusal):
        await machine.prove(challenge, body)
    nodes = await world.stores.nodes.page("", "", "", 10)
    await run_once(world)
    assert await world.seats_taken(code) == 0
    assert (await world.activation_of(nodes[0].id, 1)).state == "lapsed"
    with pytest.raises(errors.ActivationClosed):
        await machine.prove(challenge, body)


@ENDINGS
async def test_at_the_confirm(world: World, ending: Ending, refusal: type[errors.Refused]) -> None:
    code, machine = await world.code(life=LIFE), Machine(world)
    await machine.activate(code.secret)
    await ending(world, code)
    peer = await machine.peer()
    with pytest.raises(refusal):
        await world.parts.nodes.confirmations.confirm(peer, machine.ask())
    await no_seat_is_left(world, machine, code)
    with pytest.raises(errors.GenerationClosed):
        await world.parts.nodes.confirmations.confirm(peer, machine.ask())


async def test_a_confirmed_machine_keeps_its_licence(world: World) -> None:
    code, machine = await world.code(life=LIFE), Machine(world)
    await machine.join(code.secret)
    await revoke(world, code)
    peer = await machine.peer()
    await world.parts.nodes.confirmations.confirm(peer, machine.ask())  # a repeat of the confirm
    assert (await world.node(machine.node)).standing == "active"
    assert await world.seats_taken(code) == 1


async def test_a_code_revoked_during_the_start_gets_no_challenge(world: World) -> None:
    code, machine = await world.code(), Machine(world)
    make = world.parts.nodes.chip_challenges.tenants.roots

    async def slow(*arguments: object) -> object:
        await revoke(world, code)
        return await make(*arguments)  # type: ignore[arg-type]  # passed on as they came

    world.parts.nodes.chip_challenges.tenants.roots = slow  # type: ignore[method-assign, assignment]  # as above
    with pytest.raises(errors.CodeRevoked):
        await machine.start(code.secret)


async def test_a_node_that_is_no_longer_revoked_gets_no_code_to_readmit_it(world: World, machine: Machine) -> None:
    with pytest.raises(errors.Conflict, match="is active, not revoked"):
        await world.code(readmit=machine.node)
