"""`cloud.fabric.service.operators.trusted_hardware`: lists of allowed chips, and the removal of trusted hardware."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloud.fabric import errors, schemas
from protocol.encoding import sha256_hex
from protocol.ids import TenantId, make_id
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.support import ALICE, Machine, World
from tests.simulators.forged_evidence import maker, rsa2048

HASHES = tuple(f"{number:064x}" for number in range(1, 301))
NOBODY = TenantId(make_id("ten", 1, bytes(10)))


async def total(world: World) -> int:
    return (await world.parts.operators.tenants.trust(world.tenant)).ek_allowed_total


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_a_list_is_imported_paged_and_removed_from(world: World) -> None:
    trusted = world.parts.operators.trusted_hardware
    eks = (*HASHES, "nothing", HASHES[0].upper(), f"spki:{HASHES[0]}")
    done = await trusted.allow_eks(ALICE, world.tenant, schemas.AllowEks(eks, "hall 3"))
    assert (done.added, done.known, done.total) == (301, 1, 301)
    assert [(each.number, each.reason) for each in done.refused] == [(301, "it is no number in hex")]
    again = await trusted.allow_eks(ALICE, world.tenant, schemas.AllowEks(eks, "hall 4"))
    assert (again.added, again.known, again.total) == (0, 302, 301)
    assert (await world.actions(world.tenant)).count("trust.eks_allowed") == 1
    shown = await world.parts.operators.tenants.trust(world.tenant)
    assert (len(shown.ek_allowed), shown.ek_allowed_total) == (256, 301)
    cursor, found = "", []
    for _ in range(2):
        page = await trusted.allowed(world.tenant, cursor, 200)
        found += [each.ek_name for each in page.items]
        cursor = page.next_cursor
    assert cursor == ""
    assert sorted(found) == sorted([*(f"000b{each}" for each in HASHES), f"spki:{HASHES[0]}"])
    for _ in range(2):
        await trusted.remove_ek(ALICE, world.tenant, schemas.RemoveEk(f"spki:{HASHES[0]}"))
    assert await total(world) == 300
    assert (await world.actions(world.tenant)).count("trust.ek_removed") == 1


async def test_a_list_that_is_too_long_adds_nothing(world: World) -> None:
    trusted = replace(world.parts.operators.trusted_hardware, entries_max=2)
    with pytest.raises(errors.Invalid, match=r"at most 2 chips by name\. It would have 3"):
        await trusted.allow_eks(ALICE, world.tenant, schemas.AllowEks(HASHES[:3]))
    assert await total(world) == 0


async def test_an_unknown_tenant_and_invalid_values(world: World) -> None:
    trusted = world.parts.operators.trusted_hardware
    with pytest.raises(errors.NotFound):
        await trusted.allow_eks(ALICE, NOBODY, schemas.AllowEks(HASHES[:1]))
    with pytest.raises(errors.NotFound):
        await trusted.allowed(NOBODY, "", 10)
    with pytest.raises(errors.NotFound):
        await trusted.remove_root(ALICE, NOBODY, HASHES[0])
    with pytest.raises(errors.Invalid, match="ek: it is no number"):
        await trusted.remove_ek(ALICE, world.tenant, schemas.RemoveEk("nothing"))
    with pytest.raises(errors.Invalid, match="note"):
        await trusted.allow_eks(ALICE, world.tenant, schemas.AllowEks(HASHES[:1], "\n"))


async def test_a_removed_root_admits_no_further_machine(world: World, machine: Machine) -> None:
    trusted = world.parts.operators.trusted_hardware
    root = sha256_hex(maker().root.der)
    for _ in range(2):
        shown = await trusted.remove_root(ALICE, world.tenant, root.upper())
        assert root not in {each.sha256 for each in shown.ek_roots}
    assert (await world.actions(world.tenant)).count("trust.root_removed") == 1
    with pytest.raises(errors.TierNotAllowed):
        await Machine(world, "another ek").start((await world.code()).secret)
    await machine.session()


@pytest.mark.parametrize("kind", ["public", "spki", "certificate"])
async def test_a_chip_of_the_list_activates_without_a_root(world: World, kind: str) -> None:
    trusted = world.parts.operators.trusted_hardware
    await trusted.remove_root(ALICE, world.tenant, sha256_hex(maker().root.der))
    machine = Machine(world, "ek of the list")
    evidence = machine.evidence()
    machine.evidence = lambda: evidence  # type: ignore[method-assign]  # one certificate for both requests
    code = await world.code()
    with pytest.raises(errors.TierNotAllowed):
        await machine.start(code.secret)
    assert evidence.ek_certificate is not None
    spki = rsa2048(machine.label).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    values = {
        "public": sha256_hex(evidence.ek_public),
        "spki": f"spki:{sha256_hex(spki)}",
        "certificate": f"certificate:{sha256_hex(evidence.ek_certificate)}",
    }
    await trusted.allow_eks(ALICE, world.tenant, schemas.AllowEks((values[kind],)))
    await machine.activate(code.secret)
    assert (await world.node(machine.node)).tier == "attested"
