"""`cloud.fabric.service.acting`: no change is committed for an operator whose token is not valid at the commit."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from cloud.fabric import schemas
from cloud.fabric.errors import NotFound, TokenRefused, refusal
from cloud.http.guard import Operator
from protocol.ids import CodeId, NodeId
from tests.cloud.fabric.support import ALICE, Machine, World

HOUR = timedelta(hours=1)
Change = Callable[[World, Machine, Operator], Awaitable[object]]

CHANGES: dict[str, Change] = {
    "tenant": lambda world, _, who: world.parts.operators.tenants.create(who, schemas.CreateTenant("another")),
    "tiers": lambda world, _, who: world.parts.operators.tenants.set_tiers(
        who, world.tenant, schemas.SetTiers(("tpm",))
    ),
    "code": lambda world, _, who: world.parts.operators.codes.create(
        who, world.tenant, schemas.CreateCode("standard", world.clock() + HOUR)
    ),
    "standing": lambda world, machine, who: world.parts.operators.standings.change(who, machine.node, "revoke", ""),
    "token": lambda world, _, who: world.parts.operators.tokens.create(who, schemas.CreateToken("next")),
    "order": lambda world, _, who: world.parts.trust.renewal_orders.give(who, schemas.RenewDevices()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("ended", ["revoked", "expired", "unknown"])
async def test_a_token_that_ended_after_the_guard_changes_nothing(
    world: World, machine: Machine, change: Change, ended: str
) -> None:
    tokens = world.parts.operators.tokens
    made = await tokens.create(ALICE, schemas.CreateToken("ci", world.clock() + HOUR))
    who = await tokens.authenticate(made.secret)
    assert who is not None
    if ended == "revoked":
        await tokens.revoke(ALICE, made.token.id)
    elif ended == "expired":
        world.clock.forward(HOUR)
    else:
        who = Operator("tok_unknown", "ci")
    before = await world.stores.audit.page("", "", "", "aud_8", 200)
    with pytest.raises(TokenRefused) as caught:
        await change(world, machine, who)
    assert await world.stores.audit.page("", "", "", "aud_8", 200) == before
    answer = refusal(caught.value)
    assert (answer.code, answer.headers) == ("operator_required", {"WWW-Authenticate": "Bearer"})


async def test_a_dry_run_answers_and_leaves_nothing(world: World, machine: Machine) -> None:
    operators = world.parts.operators
    node = await world.stores.nodes.find(machine.node)
    assert node is not None
    before = await world.stores.audit.page("", "", "", "aud_8", 200)
    revoked = await operators.standings.change(ALICE, machine.node, "revoke", "lost", dry_run=True)
    assert (revoked.standing, revoked.standing_reason) == ("revoked", "lost")
    assert (await operators.codes.revoke(ALICE, CodeId(node.code), dry_run=True)).state == "revoked"
    trust = await operators.tenants.set_tiers(ALICE, world.tenant, schemas.SetTiers(("software",)), dry_run=True)
    assert trust.tiers == ("software",)
    assert await world.stores.nodes.find(machine.node) == node
    assert (await operators.tenants.trust(world.tenant)).tiers != ("software",)
    assert await world.stores.audit.page("", "", "", "aud_8", 200) == before
    with pytest.raises(NotFound):
        await operators.standings.change(ALICE, NodeId("node_unknown"), "revoke", "", dry_run=True)
