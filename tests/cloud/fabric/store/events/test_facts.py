"""`cloud.fabric.store.events.facts`: every write of a published row adds its event, with the row as it is after the write."""

from pathlib import Path
from typing import Any

import pytest

from cloud.contracts.fabric_events import NOUNS, CodeV1, NodeV1, TenantV1
from cloud.fabric.store import Stores, stores_over
from cloud.storage import TransactionMisuse
from tests.cloud.fabric.recorded import Recorded
from tests.cloud.fabric.store.support import CODE, HOUR, NODES, NOW, TENANT, code, generation, node, tenant

FABRIC = Path(__file__).parents[5] / "cloud" / "fabric"


async def test_stores_without_an_outbox_change_nothing_that_has_events(stores: Stores) -> None:
    other = stores_over(stores.engine)
    with pytest.raises(TransactionMisuse, match="no outbox"):
        async with other.transaction():
            await other.tenants.insert(tenant(), "created")
    assert await stores.tenants.find(TENANT) is None


async def test_each_change_of_a_code_has_the_seats_after_it(stores: Stores, recorded: Recorded) -> None:
    await stores.codes.insert(code(seats=1))
    for _ in range(2):  # the second one changes nothing
        await stores.codes.take_seat(CODE)
    for _ in range(2):
        await stores.codes.free_seat(CODE)
        await stores.codes.revoke(CODE, NOW)
    assert await stores.codes.due(NOW, 10) == []
    ends = code().expires_at
    assert await stores.codes.due(ends, 10) == [CODE]
    assert [await stores.codes.expire(CODE, at) for at in (ends - HOUR, ends, ends)] == [False, True, False]
    assert await stores.codes.due(ends, 10) == []
    assert recorded.events == [("code", CODE, past) for past in ("created", "used", "freed", "revoked", "expired")]
    bodies: list[Any] = recorded.bodies
    assert all(isinstance(body, CodeV1) for body in bodies)
    assert [body.seats_taken for body in bodies] == [0, 1, 0, 0, 0]
    assert [body.revoked_at for body in bodies] == [None, None, None, NOW, NOW]
    assert [body.expired for body in bodies] == [False, False, False, False, True]
    assert set(recorded.tenants) == {TENANT}


async def test_each_policy_of_a_tenant_is_a_change(stores: Stores, recorded: Recorded) -> None:
    await stores.tenants.insert(tenant(), "created")
    await stores.tenants.set_tiers(TENANT, ("tpm",))
    await stores.tenants.set_approval_tiers(TENANT, ("software",))
    await stores.tenants.set_pcr_policies(TENANT, {"": "report"})
    await stores.tenants.set_lease_terms(TENANT, {})
    await stores.tenants.set_clone_policy(TENANT, "suspend-both")
    await stores.tenants.set_recovery(TENANT, tenant().recovery)
    assert recorded.events == [("tenant", TENANT, past) for past in ("created", *["changed"] * 6)]
    last: Any = recorded.bodies[-1]
    assert isinstance(last, TenantV1)
    assert (last.tiers, last.approval_tiers, last.clone_policy) == (("tpm",), ("software",), "suspend-both")


async def test_a_node_without_a_public_change_has_no_event(stores: Stores, recorded: Recorded) -> None:
    before = node(1)
    await stores.nodes.insert(before, "activated")
    await stores.nodes.update(node(1, seq=9), "changed", since=before)
    await stores.nodes.update(node(1, seq=9, standing="suspended"), "suspended", since=before)
    await stores.nodes.update(node(2), "changed")  # there is no such row
    assert recorded.events == [("node", NODES[0], "activated"), ("node", NODES[0], "suspended")]


async def test_an_event_has_the_mode_of_the_row_and_not_of_an_earlier_reading(
    stores: Stores, recorded: Recorded
) -> None:
    read = node(1, development=False)
    await stores.nodes.insert(read, "activated")
    assert await stores.nodes.set_development(NODES[0], True)
    assert not await stores.nodes.set_development(NODES[0], True)
    await stores.nodes.update(read, "confirmed")
    assert [past for _, _, past in recorded.events] == ["activated", "changed", "confirmed"]
    bodies: list[Any] = recorded.bodies
    assert all(isinstance(body, NodeV1) for body in bodies)
    assert [body.development for body in bodies] == [False, True, True]


async def test_a_statement_is_an_object_of_its_own(stores: Stores, recorded: Recorded) -> None:
    await stores.nodes.insert_generation(generation())
    await stores.nodes.update_generation(generation(statement_type="lease", issued_at=NOW, seq=4), node())
    (body,) = recorded.bodies
    assert recorded.events == [("statement", f"{NODES[0]}-1", "issued")]
    assert (body.seq, body.tenant) == (4, TENANT)  # type: ignore[attr-defined]  # a StatementV1


def test_every_participle_of_the_contract_is_used() -> None:
    """A participle that no code names would promise an event that never comes."""
    sources = "\n".join(path.read_text() for path in FABRIC.rglob("*.py"))
    unused = [past for noun in NOUNS for past in noun.pasts if f'"{past}"' not in sources]
    assert unused == []
