"""`cloud.fabric.service.operators.codes`: codes are made, listed without their text, and revoked."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from cloud.fabric import schemas
from cloud.fabric.errors import CodeRevoked, Invalid, NotFound
from cloud.fabric.schemas import EntitlementTerms
from cloud.fabric.service import views
from protocol.codes import secret_hash
from protocol.ids import CodeId, NodeId, TenantId, make_id
from protocol.limits import ENTITLEMENTS_MAX, SEATS_MAX
from tests.cloud.fabric.support import ALICE, Machine, World

NOBODY = TenantId(make_id("ten", 9, bytes(10)))


async def test_the_secret_is_answered_once_and_kept_as_a_hash(world: World) -> None:
    made = await world.code(seats=3)
    row = await world.stores.codes.find(made.code.id)
    assert row is not None
    assert row.secret_hash == secret_hash(made.secret)
    assert made.secret not in str(row)
    page = await world.parts.operators.codes.page(world.tenant, "", 10)
    assert page.items == (made.code,)
    assert (made.code.state, made.code.seats, made.code.entitlements) == ("open", 3, ("press",))
    assert await world.actions(made.code.id) == ["code.created"]


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": " "},
        {"entitlements": ("a", "a")},
        {"entitlements": tuple(str(number) for number in range(ENTITLEMENTS_MAX + 1))},
        {"entitlements": ("",)},
        {"seats": 0},
        {"seats": SEATS_MAX + 1},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"expires_at": datetime(2026, 12, 1)},  # noqa: DTZ001  the test needs a time without a zone
        {"expires_at": datetime(2040, 1, 1, tzinfo=UTC)},
        {"lease": schemas.LeaseTerms(9, 8, 7, 6)},
        {"readmit_node": NodeId(make_id("node", 9, bytes(10)))},
    ],
)
async def test_each_bound_of_a_code(world: World, changes: dict[str, Any]) -> None:
    body = schemas.CreateCode("standard", world.clock() + timedelta(days=1))
    with pytest.raises(Invalid):
        await world.parts.operators.codes.create(ALICE, world.tenant, msgspec.structs.replace(body, **changes))
    assert (await world.parts.operators.codes.page(world.tenant, "", 10)).items == ()


TERMS: list[dict[str, Any]] = [
    {"entitlements": tuple(f"{number}" + "\U0001f40b" * 20 for number in range(ENTITLEMENTS_MAX))},
    {"entitlement_terms": (EntitlementTerms("a", limit=1), EntitlementTerms("a", limit=2))},
    {"entitlement_terms": (EntitlementTerms(" "),)},
    {"entitlement_terms": (EntitlementTerms("a", limit=-1),)},
    {"entitlement_terms": (EntitlementTerms("a", until=datetime(2026, 12, 1)),)},  # noqa: DTZ001  as above
    {
        "entitlement_terms": (
            EntitlementTerms("a", until=datetime(2030, 1, 1, tzinfo=UTC), not_before=datetime(2030, 1, 1, tzinfo=UTC)),
        )
    },
    {"entitlement_terms": (EntitlementTerms("a", attributes={"": "x"}),)},
    {"entitlement_terms": (EntitlementTerms("a", attributes={"x": "\n"}),)},
    {"entitlement_terms": (EntitlementTerms("a", attributes={f"{number}": "" for number in range(17)}),)},
    {"intervals": schemas.LeaseIntervals(heartbeat_seconds=29)},
    {"intervals": schemas.LeaseIntervals(heartbeat_seconds=86_401)},
    {"intervals": schemas.LeaseIntervals(wake_seconds=7)},
    {"intervals": schemas.LeaseIntervals(wake_seconds=251)},
]


async def test_each_bound_of_terms_and_intervals(world: World) -> None:
    body = schemas.CreateCode("standard", world.clock() + timedelta(days=1))
    for changes in TERMS:
        with pytest.raises(Invalid):
            await world.parts.operators.codes.create(ALICE, world.tenant, msgspec.structs.replace(body, **changes))
    assert (await world.parts.operators.codes.page(world.tenant, "", 10)).items == ()


async def test_terms_are_stored_beside_the_names(world: World) -> None:
    zone = timezone(timedelta(hours=2))
    limited = EntitlementTerms("cameras", limit=8, until=datetime(2030, 1, 1, 2, tzinfo=zone), attributes={"a": "b"})
    made = await world.code(entitlements=("cameras", "press"), terms=(EntitlementTerms("plain"), limited))
    expected = msgspec.structs.replace(limited, until=datetime(2030, 1, 1, tzinfo=UTC))
    assert (made.code.entitlements, made.code.entitlement_terms) == (("cameras", "press", "plain"), (expected,))
    row = await world.stores.codes.find(made.code.id)
    assert row is not None
    assert views.code(row, world.clock()) == made.code


async def test_a_code_is_of_a_tenant_that_exists(world: World) -> None:
    body = schemas.CreateCode("standard", world.clock() + timedelta(days=1))
    with pytest.raises(NotFound):
        await world.parts.operators.codes.create(ALICE, NOBODY, body)
    with pytest.raises(NotFound):
        await world.parts.operators.codes.page(NOBODY, "", 10)


async def test_a_revoked_code_activates_no_machine_and_a_repeat_is_harmless(world: World) -> None:
    made = await world.code()
    revoked = [await world.parts.operators.codes.revoke(ALICE, made.code.id) for _ in range(2)]
    assert revoked[0] == revoked[1]
    assert (revoked[0].state, revoked[0].revoked_at) == ("revoked", world.clock())
    assert await world.actions(made.code.id) == ["code.created", "code.revoked"]
    with pytest.raises(CodeRevoked):
        await Machine(world).start(made.secret)
    with pytest.raises(NotFound):
        await world.parts.operators.codes.revoke(ALICE, CodeId(make_id("code", 9, bytes(10))))
