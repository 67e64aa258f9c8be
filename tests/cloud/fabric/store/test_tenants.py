"""`cloud.fabric.store.tenants`: tenants, and the hardware they trust."""

from cloud.fabric.store import Stores
from cloud.fabric.store.rows import EkAllowedRow, EkRootRow
from protocol.ids import TenantId, make_id
from tests.cloud.fabric.store.support import NOW, TENANT, tenant


async def test_a_row_comes_back_as_it_went(stores: Stores) -> None:
    await stores.tenants.insert(tenant(), "created")
    assert await stores.tenants.find(TENANT) == tenant()
    await stores.tenants.set_tiers(TENANT, ("attested", "tpm"))
    assert await stores.tenants.find(TENANT) == tenant(tiers=("attested", "tpm"))
    assert await stores.tenants.find(TenantId(make_id("ten", 2, bytes(10)))) is None


async def test_tenants_are_paged_by_id(stores: Stores) -> None:
    ids = [TenantId(make_id("ten", number, bytes(10))) for number in (1, 2, 3)]
    for key in reversed(ids):
        await stores.tenants.insert(tenant(id=key), "created")
    assert [row.id for row in await stores.tenants.page("", 2)] == ids[:2]
    assert [row.id for row in await stores.tenants.page(ids[1], 2)] == ids[2:]


async def test_trusted_hardware_is_added_once_and_listed_by_tenant(stores: Stores) -> None:
    root = EkRootRow("one", TENANT, "a" * 64, b"der", "rsa2048", NOW)
    chip = EkAllowedRow("two", TENANT, "000b", "the one in the hall", NOW)
    for _ in range(2):
        await stores.tenants.add_root(root)
        await stores.tenants.add_allowed(chip)
    assert await stores.tenants.roots(TENANT) == [root]
    assert await stores.tenants.allowed(TENANT) == [chip]
    other = TenantId(make_id("ten", 2, bytes(10)))
    assert (await stores.tenants.roots(other), await stores.tenants.allowed(other)) == ([], [])
