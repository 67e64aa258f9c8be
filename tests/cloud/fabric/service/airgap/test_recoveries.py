"""`cloud.fabric.service.airgap.activations`: a machine without a network gets its node back by a recovery case."""

from datetime import timedelta

import pytest

from cloud.fabric.errors import AirgapOutdated, RecoveryCodeRefused, RecoveryRefused
from cloud.storage import Statement
from protocol.signed.statements import Lease, Revocation, Suspension
from tests.cloud.fabric.carried import Site, a_site
from tests.cloud.fabric.recovering import case_of, claim, decide, recovered, seats
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import World, change

HOUR = timedelta(hours=1)


def reinstalled(site: Site) -> Site:
    """The machine with an empty disk. Its chip is the same."""
    fresh = a_site(site.world)
    fresh.ticks, fresh.made = site.ticks + 1000, site.made + 100
    return fresh


@pytest.mark.parametrize("shown", [False, True])
async def test_a_recovery_code_brings_a_reinstalled_machine_back_in_one_round(
    site: Site, world: World, shown: bool
) -> None:
    """An agent of an earlier release shows the code."""
    node, fresh = site.machine.node, reinstalled(site)
    world.clock.forward(HOUR)
    code = (await issue(world, node=node)).codes[0].secret
    text = fresh.text("recover", recovery=claim(node), code=code, shown=shown)
    assert (code in text) is shown
    lease = fresh.take(await fresh.answered(text))
    assert isinstance(lease, Lease)
    assert (lease.node, lease.generation, await seats(world, node)) == (node, 2, 1)
    assert (await case_of(world, node)).state == "consumed"
    assert isinstance(world.statement((await world.generation(node, 1)).statement), Revocation)
    assert [each.kind for each in await fresh.exchanges()] == ["activate", "recover"]
    # The code is used. The same request is answered again all the same, also after a change of the standing.
    await change(world, fresh.machine, "suspend")
    assert isinstance(await _again(fresh, text), Suspension)
    with pytest.raises(RecoveryCodeRefused):
        await fresh.send(reinstalled(fresh).text("recover", recovery=claim(node), code=code))


async def test_a_reader_of_the_file_cannot_use_the_recovery_code(site: Site, world: World) -> None:
    node, fresh = site.machine.node, reinstalled(site)
    world.clock.forward(HOUR)
    code = (await issue(world, node=node)).codes[0]
    proof = fresh.request("recover", recovery=claim(node), code=code.secret).code
    thief = a_site(world, "another ek")
    for stolen in (proof, proof[:-4] + "AAAA", "."):
        with pytest.raises(RecoveryCodeRefused, match="no valid proof of a code"):
            await thief.send(thief.text("recover", recovery=claim(node), code=stolen, shown=True))
    row = await world.stores.recovery_codes.find(code.code.id)
    assert row is not None
    assert (row.used_at, (await world.node(node)).last_generation) == (None, 1)


async def test_a_recovery_code_of_an_earlier_release_is_not_proved_in_a_file(site: Site, world: World) -> None:
    node, fresh = site.machine.node, reinstalled(site)
    world.clock.forward(HOUR)
    code = (await issue(world, node=node)).codes[0].secret
    await world.stores.engine.fetch(Statement("UPDATE recovery_code SET proof_key = ''"))
    with pytest.raises(RecoveryCodeRefused, match="an earlier release issued it"):
        await fresh.send(fresh.text("recover", recovery=claim(node), code=code))
    assert isinstance(await recovered(fresh.machine, claim(node), code), Lease), "over a network it counts"


async def _again(site: Site, text: str) -> object:
    """The statement in another answer to a request that was answered before."""
    activated = site.machine.activated
    assert activated is not None
    answer = await site.answered(text)
    assert answer.sealed is not None
    (exchange,) = [each for each in await site.exchanges() if each.kind == "recover"]
    return site.world.statement((await site.world.generation(exchange.node, exchange.generation)).statement)


async def test_an_operator_decides_about_the_case_and_answers_the_same_file_again(site: Site, world: World) -> None:
    node, fresh = site.machine.node, reinstalled(site)
    world.clock.forward(HOUR)
    text = fresh.text("recover", recovery=claim(node, situation="tpm-cleared"))
    waiting = await fresh.send(text)
    case = await case_of(world, node)
    assert (waiting.answer, waiting.recovery, waiting.needs) == ("", case.id, "operator-or-code")
    assert waiting.activation is not None
    assert waiting.approve_by is not None
    assert (await world.node(node)).last_generation == 1
    await decide(world, case.id, "approved", "seen on site")
    lease = fresh.take(await fresh.answered(text))
    assert isinstance(lease, Lease)
    assert (lease.node, lease.generation, await seats(world, node)) == (node, 2, 1)
    assert await world.actions(case.id) == [
        "recovery.opened",
        "recovery.approved",
        "recovery.continued",
        "recovery.consumed",
    ]


async def test_a_denied_recovery_is_refused_with_its_reason(site: Site, world: World) -> None:
    node, fresh = site.machine.node, reinstalled(site)
    world.clock.forward(HOUR)
    text = fresh.text("recover", recovery=claim(node))
    await fresh.send(text)
    await decide(world, (await case_of(world, node)).id, "refused", "sold")
    with pytest.raises(RecoveryRefused, match="sold"):
        await fresh.send(text)
    assert (await world.node(node)).last_generation == 1


async def test_a_recovery_from_before_a_later_request_of_the_node_is_refused(site: Site, world: World) -> None:
    fresh = reinstalled(site)
    text = fresh.text("recover", recovery=claim(site.machine.node))
    world.clock.forward(HOUR)
    site.ticks = fresh.ticks + 1
    await site.refresh()
    with pytest.raises(AirgapOutdated, match="made before the request"):
        await fresh.send(text)


async def test_an_unknown_node_is_not_recovered(world: World) -> None:
    fresh = a_site(world)
    with pytest.raises(RecoveryRefused, match="no such node"):
        await fresh.send(fresh.text("recover", recovery=claim("node_01jd8xk3v5e2r9qz7w4m6n8p0a")))
