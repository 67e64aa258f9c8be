"""`cloud.fabric.service.operators.tenants`: tenants, and the hardware they trust."""

from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid, NotFound
from protocol.ids import TenantId, make_id
from protocol.limits import NAME_CHARS_MAX
from protocol.signed.statements import Tier
from tests.cloud.fabric.authorities import Generation
from tests.cloud.fabric.support import ALICE, World

NOBODY = TenantId(make_id("ten", 9, bytes(10)))
CHIP = "000b" + "ab" * 32


def pem(generation: int) -> str:
    return Generation(generation).root.certificate.public_bytes(Encoding.PEM).decode()


async def test_a_new_tenant_admits_attested_machines_only(world: World) -> None:
    world.clock.forward(timedelta(seconds=1))  # Ids of the same millisecond have no order.
    made = await world.parts.operators.tenants.create(ALICE, schemas.CreateTenant("Mills Ltd"))
    assert await world.parts.operators.tenants.show(made.id) == made
    assert (made.name, made.tiers) == ("Mills Ltd", ("attested",))
    assert await world.parts.operators.tenants.trust(made.id) == schemas.TenantTrust(made.id, ("attested",), (), ())
    page = await world.parts.operators.tenants.page("", 10)
    assert [tenant.name for tenant in page.items] == ["Presses Ltd", "Mills Ltd"]
    assert await world.actions(made.id) == ["tenant.created"]


@pytest.mark.parametrize("name", ["", "  ", "x" * (NAME_CHARS_MAX + 1), "a\nb"])
async def test_a_name_is_bounded_and_printable(world: World, name: str) -> None:
    with pytest.raises(Invalid):
        await world.parts.operators.tenants.create(ALICE, schemas.CreateTenant(name))


async def test_roots_are_added_once(world: World) -> None:
    service, body = world.parts.operators.tenants, schemas.AddEkRoots(pem(2))
    before = len((await service.trust(world.tenant)).ek_roots)
    added = [await service.add_ek_roots(ALICE, world.tenant, body) for _ in range(2)]
    assert [len(trust.ek_roots) for trust in added] == [before + 1] * 2
    assert [trust.upload for trust in added] == [schemas.AddedEkRoots(1, 0), schemas.AddedEkRoots(0, 1)]
    assert (await service.trust(world.tenant)).upload is None
    assert (await world.actions(world.tenant)).count("trust.root_added") == before + 1
    full = replace(service, roots_max=before + 1)
    with pytest.raises(Invalid, match="at most"):
        await full.add_ek_roots(ALICE, world.tenant, schemas.AddEkRoots(pem(3)))
    with pytest.raises(Invalid, match="pem"):
        await service.add_ek_roots(ALICE, world.tenant, schemas.AddEkRoots("no certificate"))


async def test_a_bad_certificate_is_listed_and_the_others_are_added(world: World) -> None:
    bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    body = schemas.AddEkRoots(bad + pem(2) + bad)
    upload = (await world.parts.operators.tenants.add_ek_roots(ALICE, world.tenant, body)).upload
    assert upload is not None
    assert (upload.added, upload.known) == (1, 0)
    assert [(each.number, each.line) for each in upload.refused] == [(1, 1), (3, pem(2).count("\n") + 4)]
    assert all("cannot be read" in each.reason for each in upload.refused)


async def test_a_chip_is_allowed_once_by_its_name(world: World) -> None:
    service = world.parts.operators.tenants
    for name in (CHIP, f" {CHIP.upper()} "):
        trust = await service.allow_ek(ALICE, world.tenant, schemas.AllowEk(name, "the one in the hall"))
        assert [(entry.ek_name, entry.note) for entry in trust.ek_allowed] == [(CHIP, "the one in the hall")]
    assert (await world.actions(world.tenant)).count("trust.ek_allowed") == 1
    with pytest.raises(Invalid, match="ek_name"):
        await service.allow_ek(ALICE, world.tenant, schemas.AllowEk("000c" + "ab" * 32))
    full = replace(service, entries_max=1)
    with pytest.raises(Invalid, match="at most"):
        await full.allow_ek(ALICE, world.tenant, schemas.AllowEk("000b" + "cd" * 32))


async def test_tiers_are_set_in_one_order_and_never_to_none(world: World) -> None:
    service = world.parts.operators.tenants
    trust = await service.set_tiers(ALICE, world.tenant, schemas.SetTiers(("software", "tpm", "attested")))
    assert trust.tiers == ("attested", "tpm", "software")
    trust = await service.set_tiers(ALICE, world.tenant, schemas.SetTiers(("tpm", "attested")))
    assert trust.tiers == ("attested", "tpm")
    for tiers in ((), ("tpm", "other")):
        with pytest.raises(Invalid, match="tiers"):
            await service.set_tiers(ALICE, world.tenant, schemas.SetTiers(cast(tuple[Tier, ...], tiers)))
    assert (await service.show(world.tenant)).tiers == ("attested", "tpm")


async def test_a_tenant_that_does_not_exist_is_not_found(world: World) -> None:
    service = world.parts.operators.tenants
    for call in (
        service.show(NOBODY),
        service.trust(NOBODY),
        service.add_ek_roots(ALICE, NOBODY, schemas.AddEkRoots(pem(2))),
        service.allow_ek(ALICE, NOBODY, schemas.AllowEk(CHIP)),
        service.set_tiers(ALICE, NOBODY, schemas.SetTiers(("tpm",))),
    ):
        with pytest.raises(NotFound):
            await call
