"""`cloud.breakwater.store.events`: each change is one event with the object's state, in the change's transaction."""

from typing import TypeVar

import msgspec
import pytest

from cloud.breakwater.errors import Conflict
from cloud.breakwater.store import Stores
from cloud.contracts.breakwater_events import AuthorityV1, GenerationsV1, IdentityV1, ServiceCertificateV1
from cloud.storage import Statement
from tests.cloud.breakwater.store.samples import (
    DAY,
    HOUR,
    NODE,
    NODES_1,
    NOW,
    SERVICES_1,
    TBS,
    TENANT,
    adopt,
    entry,
    issue,
    order,
)

B = TypeVar("B", bound=msgspec.Struct)
_EVENTS = Statement("SELECT type, subject, sequence, tenant, data FROM event_outbox ORDER BY number LIMIT 1000")


async def events(stores: Stores, noun: str) -> list[tuple[str, int]]:
    """Past participle and sequence of every event of a noun, in order."""
    rows = [row for row in await stores.engine.fetch(_EVENTS) if row["subject"].startswith(f"{noun}/")]
    return [(row["type"].split(".")[-2], row["sequence"]) for row in rows]


async def latest(stores: Stores, subject: str, kind: type[B]) -> tuple[B, str]:
    """The body and the tenant of the latest event of an object."""
    rows = [row for row in await stores.engine.fetch(_EVENTS) if row["subject"] == subject]
    return msgspec.json.decode(bytes(rows[-1]["data"]), type=kind), rows[-1]["tenant"]


async def test_each_change_of_an_authority(stores: Stores) -> None:
    await adopt(stores)
    second = msgspec.structs.replace(SERVICES_1, id="services-2", number=2, state="prepared", certificate=b"other")
    assert await stores.authorities.prepare(second, entry(0))
    assert not await stores.authorities.prepare(second, entry(0))
    assert await stores.authorities.move("services-2", "active", "", entry(0))
    assert not await stores.authorities.move("services-2", "active", "", entry(0))
    await stores.authorities.move("services-1", "tainted", "stolen", entry(0))
    await stores.authorities.move("services-1", "revoked", "stolen", entry(0))
    with pytest.raises(Conflict):
        await stores.authorities.move("services-1", "active", "", entry(0))
    assert await events(stores, "authority") == [
        ("recorded", 1),
        ("recorded", 1),
        ("prepared", 1),
        ("replaced", 2),
        ("activated", 2),
        ("tainted", 3),
        ("revoked", 4),
    ]
    body, tenant = await latest(stores, "authority/services-1", AuthorityV1)
    assert (body.state, body.ca, body.number, body.certificate, tenant) == (
        "revoked",
        "services",
        1,
        SERVICES_1.certificate,
        "",
    )


async def test_a_revoked_certificate_of_a_service(stores: Stores) -> None:
    await adopt(stores)
    serial = await issue(stores, order(1, "service"))
    await stores.generations.open(entry())
    await issue(stores, order(2))
    assert await stores.revocation_writes.revoke(serial, 1, NOW, entry())
    assert not await stores.revocation_writes.revoke(serial, 4, NOW, entry())
    await stores.generations.close_up_to(entry(), 4)
    assert await events(stores, "service_certificate") == [("revoked", 1)]
    body, tenant = await latest(stores, f"service_certificate/{serial}", ServiceCertificateV1)
    assert (body.service, body.not_after, body.revoked_at, body.reason, tenant) == (
        "fabric",
        NOW + DAY,
        NOW,
        "keyCompromise",
        "",
    )


async def test_an_orphan_of_a_service_is_revoked_too(stores: Stores) -> None:
    await adopt(stores)
    await stores.issuance.record(order(1, "service"), TBS, NOW)
    assert await stores.issuance.orphan(order(1, "service"), NOW)
    assert not await stores.issuance.orphan(order(1, "service"), NOW)
    await stores.issuance.record(order(2, "service"), TBS, NOW - 2 * HOUR)
    assert await stores.issuance.orphan_stale(NOW, HOUR)
    assert await events(stores, "service_certificate") == [("revoked", 1), ("revoked", 1)]


async def test_closed_generations_of_a_node(stores: Stores) -> None:
    for generation in (1, 2, 3, 4):
        await stores.generations.open(entry(generation))
    await stores.generations.close_one(entry(3), 4)
    await stores.generations.close_one(entry(3), 4)
    await stores.generations.close_up_to(entry(1), 4)
    await stores.generations.close_up_to(entry(1), 4)
    assert await events(stores, "generations") == [("closed", 1), ("closed", 2)]
    body, tenant = await latest(stores, f"generations/{NODE}", GenerationsV1)
    assert (body.node, body.tenant, body.closed_up_to, body.closed, tenant) == (NODE, TENANT, 1, (3,), TENANT)
    await stores.generations.close_up_to(entry(4), 4)
    body, _ = await latest(stores, f"generations/{NODE}", GenerationsV1)
    assert (body.closed_up_to, body.closed) == (4, ())


async def test_the_ca_of_the_own_certificate_is_reported_once_while_it_is_active(stores: Stores) -> None:
    await adopt(stores)
    assert await stores.events.identity("services-1", "ab")
    assert not await stores.events.identity("services-1", "ab")
    assert not await stores.events.identity("nodes-1", "cd")
    second = msgspec.structs.replace(SERVICES_1, id="services-2", number=2, state="prepared", certificate=b"other")
    await stores.authorities.prepare(second, entry(0))
    assert not await stores.events.identity("services-2", "ef")
    await stores.authorities.move("services-2", "active", "", entry(0))
    assert await stores.events.identity("services-2", "ef")
    assert not await stores.events.identity("services-1", "ab")
    body, _ = await latest(stores, "identity/breakwater", IdentityV1)
    assert (body.authority, body.issuer) == ("services-2", "ef")
    assert NODES_1.id == "nodes-1"
