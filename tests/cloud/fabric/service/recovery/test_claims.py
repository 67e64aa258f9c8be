"""`cloud.fabric.service.recovery.claims`: a claim names a node, and an unproven claim learns and changes nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.service.recovery.claims import Named
from protocol.ids import make_id
from protocol.signed.statements import Lease
from tests.cloud.breakwater.support import Clock
from tests.cloud.fabric.backups import fabric_backup, restore_fabric
from tests.cloud.fabric.recovering import case_of, claim, decide, recovered, replacement, start, waits
from tests.cloud.fabric.service.recovery.support import issue
from tests.cloud.fabric.support import ALICE, Machine, World, world_at

pytestmark = pytest.mark.slow


async def read(world: World, code: str = "", **fields: Any) -> Named:
    claims = world.parts.nodes.activations.starts.claims
    return await claims.read(claim(**fields), code, source="192.0.2.1", chip="chip")


async def test_id_statement_and_code_name_the_node(world: World, machine: Machine) -> None:
    code = (await issue(world, node=machine.node)).codes[0]
    ran = datetime(2026, 11, 22, 11, tzinfo=UTC)
    claims: tuple[dict[str, str], ...] = (
        {"node": f" {machine.node.upper()} "},
        {"statement": machine.held},
        {"code": code.secret},
    )
    for fields in claims:
        options: dict[str, Any] = {"last_ran_at": ran, **fields}
        named = await read(world, **options)
        assert named.node is not None
        assert (named.node.id, named.tenant.id, named.claimed.last_ran_at) == (machine.node, world.tenant, ran)
        assert (named.claimed.statement, bool(named.claimed.code)) == ("statement" in fields, "code" in fields)
    tenant_wide = (await issue(world, tenant=world.tenant)).codes[0]
    named = await read(world, tenant_wide.secret)
    assert (named.node, named.claimed.node) == (None, ""), "the proved chip has to name the node"


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({}, errors.RecoveryRefused, "no node is named"),
        ({"node": "node_x"}, errors.Invalid, "node: not an id"),
        ({"node": make_id("node", 5, bytes(10))}, errors.RecoveryRefused, "no such node"),
        ({"statement": "a.b.c"}, errors.RecoveryRefused, "did not sign the statement"),
        ({"code": "0000-0000"}, errors.RecoveryCodeRefused, "code"),
    ],
)
async def test_what_names_no_node_is_refused(
    world: World, fields: dict[str, str], error: type[errors.Refused], text: str
) -> None:
    with pytest.raises(error, match=text):
        await read(world, **fields)


async def test_parts_of_a_claim_must_name_one_node(world: World, machine: Machine) -> None:
    other = Machine(world, "another")
    await other.join((await world.code()).secret)
    with pytest.raises(errors.RecoveryRefused, match="of another node"):
        await read(world, node=machine.node, statement=other.held)
    tenant = await world.parts.operators.tenants.create(ALICE, schemas.CreateTenant("Other Ltd"))
    foreign = (await issue(world, tenant=tenant.id)).codes[0]
    with pytest.raises(errors.RecoveryCodeRefused, match="another node"):
        await read(world, foreign.secret, node=machine.node)


async def test_starts_are_limited_by_source_before_the_node_is_read(world: World, machine: Machine) -> None:
    for _ in range(60):
        with pytest.raises(errors.RecoveryRefused):
            await start(machine, claim(make_id("node", 5, bytes(10))), host="192.0.2.50")
    with pytest.raises(errors.TooOften, match="too many recoveries"):
        await start(machine, claim(machine.node), host="192.0.2.50")
    await start(machine, claim(machine.node), host="198.51.100.1")


async def test_an_unproven_start_changes_no_node(world: World, machine: Machine) -> None:
    before = await world.node(machine.node)
    challenge = await start(machine, claim(machine.node))
    assert await world.node(machine.node) == before
    assert await world.stores.recovery_cases.latest(machine.node) is None
    assert await world.actions(challenge.activation) == ["activation.challenged"]


@pytest.mark.parametrize("presents", [False, True])
async def test_a_lease_that_the_restored_cloud_has_lost_needs_a_person(
    home: Path, databases: Path, presents: bool
) -> None:
    """The node may have been suspended or revoked after that lease. A code from the envelope does not decide about it."""
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        machine = Machine(world)
        await machine.join((await world.code()).secret)
        first = machine.held
        code = (await issue(world, node=machine.node)).codes[0].secret
        backup = await fabric_backup(world)
        clock.forward(timedelta(hours=13))
        machine.held = (await machine.session()).current.statement
        assert machine.held != first
        await restore_fabric(world, backup)
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = world
        lost, new = machine.held, replacement(machine)
        if presents:
            await machine.session()
            assert (await world.node(machine.node)).hold == "conflicting"
        await waits(new, claim(statement=first if presents else lost), code)
        case = await case_of(world, machine.node)
        assert (case.state, case.needs) == ("needs_operator", "operator")
        assert (await world.node(machine.node)).last_generation == 1
        await decide(world, case.id, "approved")
        assert isinstance(await recovered(new, claim(statement=lost)), Lease)


async def test_the_statement_that_the_restored_cloud_knows_is_enough(home: Path, databases: Path) -> None:
    clock = Clock()
    async with world_at(home, databases, clock) as world:
        machine = Machine(world)
        await machine.join((await world.code()).secret)
        code = (await issue(world, node=machine.node)).codes[0].secret
        await restore_fabric(world, await fabric_backup(world))
    async with world_at(home, databases, clock, first=False) as world:
        machine.world = world
        assert isinstance(await recovered(machine, claim(statement=machine.held), code), Lease)
