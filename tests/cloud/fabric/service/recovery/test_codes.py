"""`cloud.fabric.service.recovery.codes`: which codes are accepted, and every refusal. A refusal uses up nothing."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from cloud.fabric import schemas
from cloud.fabric.errors import RecoveryCodeRefused, TooOften
from cloud.fabric.service.recovery.codes import recovery_code_hash
from cloud.fabric.service.recovery.tries import Caller
from cloud.fabric.store.rows import NodeRow
from protocol.codes import make_recovery_code
from tests.cloud.fabric.service.recovery.support import (
    CASES,
    all_codes,
    issue,
    new_node,
    one_code,
    refusal_of,
    use,
)
from tests.cloud.fabric.support import ALICE, World

Refused = tuple[str, str]
"""The text that a machine presents, and the refusal."""


async def wrong(world: World, node: NodeRow) -> Refused:
    return make_recovery_code(b"a" * 13), "no such recovery code"


async def mistyped(world: World, node: NodeRow) -> Refused:
    secret = (await one_code(world, node=node.id)).secret
    return ("1" if secret[0] == "0" else "0") + secret[1:], "the check of the recovery code does not match"


async def used_by_another_case(world: World, node: NodeRow) -> Refused:
    secret = (await one_code(world, node=node.id)).secret
    await use(world, secret, node, case=CASES[1])
    return secret, "the code was used at 2026-11-01 12:00 UTC; it works once"


async def of_another_node(world: World, node: NodeRow) -> Refused:
    other = await new_node(world, 2)
    return (await one_code(world, node=other.id)).secret, "the code is for another node"


async def of_another_tenant(world: World, node: NodeRow) -> Refused:
    tenant = await world.parts.operators.tenants.create(ALICE, schemas.CreateTenant("Others"))
    return (await one_code(world, tenant=tenant.id)).secret, "the code is for another tenant"


async def expired(world: World, node: NodeRow) -> Refused:
    secret = (await issue(world, node=node.id, days=1)).codes[0].secret
    world.clock.forward(timedelta(days=1))
    return secret, "the code expired at"


async def issued_again(world: World, node: NodeRow) -> Refused:
    await one_code(world, node=node.id)
    issued = await issue(world, node=node.id)
    assert issued.reissued
    usable = world.clock() + timedelta(hours=24)
    return issued.codes[0].secret, f"the code was issued again, and is accepted from {usable:%Y-%m-%d %H:%M} UTC on"


async def revoked(world: World, node: NodeRow) -> Refused:
    issued = await one_code(world, node=node.id)
    await world.parts.operators.recovery_code_issues.revoke(ALICE, issued.code.id)
    return issued.secret, "the code was revoked at"


@pytest.mark.parametrize(
    "refused",
    [wrong, mistyped, used_by_another_case, of_another_node, of_another_tenant, expired, issued_again, revoked],
    ids=lambda case: case.__name__,
)
async def test_each_refusal_names_its_cause_uses_up_nothing_and_is_in_the_audit(
    world: World, refused: Callable[[World, NodeRow], Awaitable[Refused]]
) -> None:
    node = await new_node(world)
    text, cause = await refused(world, node)
    assert cause.partition("2026")[0] in await refusal_of(world, text, node)
    entry = (await world.stores.audit.page("", "", "recovery.code_refused", "aud_8", 10))[0]
    assert (entry.outcome, entry.detail["source"]) == ("refused", "192.0.2.1")
    known = await world.stores.recovery_codes.find_by_hash(
        recovery_code_hash(world.parts.shared.recovery_codes.key, text)
    )
    assert (entry.object, entry.tenant) == (("unknown", "") if known is None else (known.id, known.tenant))
    assert text not in str(entry)


async def test_a_code_of_the_tenant_needs_a_matching_fingerprint(world: World) -> None:
    node = await new_node(world)
    secret = (await one_code(world, tenant=world.tenant)).secret
    assert "fingerprint matches, and it does not" in await refusal_of(world, secret, node, matches=False)
    assert await refusal_of(world, secret, node) == ""


async def test_a_code_of_the_node_needs_no_fingerprint_and_works_once(world: World) -> None:
    node = await new_node(world)
    issued = await one_code(world, node=node.id)
    await use(world, issued.secret.lower().replace("-", " "), node, matches=False)
    row = await world.stores.recovery_codes.find(issued.code.id)
    assert row is not None
    assert (row.used_at, row.used_case) == (world.clock(), CASES[0])
    assert await world.actions(issued.code.id) == ["recovery.code_issued", "recovery.code_used"]
    assert "it works once" in await refusal_of(world, issued.secret, node, case=CASES[1])


async def test_the_same_case_may_present_its_code_again(world: World) -> None:
    node = await new_node(world)
    issued = await one_code(world, node=node.id)
    await use(world, issued.secret, node)
    before = await all_codes(world)
    await use(world, issued.secret, node)
    assert await all_codes(world) == before
    assert await world.actions(issued.code.id) == ["recovery.code_issued", "recovery.code_used"]


async def test_a_reissued_code_works_after_the_delay(world: World) -> None:
    node = await new_node(world)
    await one_code(world, node=node.id)
    secret = (await one_code(world, node=node.id)).secret
    with pytest.raises(RecoveryCodeRefused) as refused:
        await use(world, secret, node)
    assert refused.value.allowed_at == world.clock() + timedelta(hours=24)
    world.clock.forward(timedelta(hours=24))
    assert await refusal_of(world, secret, node) == ""


async def test_wrong_codes_stop_their_caller_for_a_while_and_no_code_and_no_other_source(world: World) -> None:
    node = await new_node(world)
    secret = (await one_code(world, node=node.id)).secret
    typo = make_recovery_code(b"b" * 13)
    for _ in range(10):
        assert await refusal_of(world, typo, node)
    with pytest.raises(TooOften) as refused:
        await use(world, secret, node)
    assert 0 < refused.value.wait <= 360
    await use(world, secret, node, caller=Caller("192.0.2.2", "chip"))


async def test_the_key_of_the_hashes_is_not_shown(world: World) -> None:
    assert "key=b" not in repr(world.parts.shared.recovery_codes) + repr(world.parts.operators.recovery_code_issues)
