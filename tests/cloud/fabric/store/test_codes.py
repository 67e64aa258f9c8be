"""`cloud.fabric.store.codes`: codes, and seats by compare-and-set."""

from cloud.fabric import schemas
from cloud.fabric.store import Stores
from protocol.ids import CodeId, TenantId, make_id
from tests.cloud.fabric.store.support import CODE, HOUR, NOW, TENANT, code


async def test_a_row_comes_back_as_it_went(stores: Stores) -> None:
    row = code(lease=schemas.LeaseTerms(1, 2, 3, 4))
    await stores.codes.insert(row)
    assert await stores.codes.find(CODE) == row
    assert await stores.codes.find_by_hash("5ec") == row
    assert await stores.codes.find_by_hash("other") is None


async def test_codes_are_paged_by_tenant(stores: Stores) -> None:
    ids = [CodeId(make_id("code", number, bytes(10))) for number in (1, 2, 3)]
    for number, key in enumerate(ids):
        tenant = TENANT if number < 2 else TenantId(make_id("ten", 2, bytes(10)))
        await stores.codes.insert(code(id=key, secret_hash=str(number), tenant=tenant))
    assert [row.id for row in await stores.codes.page(TENANT, "", 10)] == ids[:2]
    assert [row.id for row in await stores.codes.page(TENANT, ids[0], 10)] == ids[1:2]


async def test_no_more_seats_are_taken_than_there_are(stores: Stores) -> None:
    await stores.codes.insert(code(seats=2))
    assert [await stores.codes.take_seat(CODE) for _ in range(3)] == [True, True, False]
    for _ in range(3):
        await stores.codes.free_seat(CODE)
    row = await stores.codes.find(CODE)
    assert row is not None
    assert row.seats_taken == 0


async def test_the_first_revocation_counts(stores: Stores) -> None:
    await stores.codes.insert(code())
    await stores.codes.revoke(CODE, NOW)
    await stores.codes.revoke(CODE, NOW + HOUR)
    row = await stores.codes.find(CODE)
    assert row is not None
    assert row.revoked_at == NOW
