"""Samples for the tests of the stores: authorities, generations and records, without real signatures."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.pkix.csr import RequestedKey
from cloud.breakwater.pkix.profiles import ProfileName, Wanted
from cloud.breakwater.store import Stores
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.breakwater.store.checker_reads import CheckedRecord
from cloud.breakwater.store.issuance import Order, serial_text
from protocol.ids import make_id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TENANT = make_id("ten", 1, bytes(10))
OTHER_TENANT = make_id("ten", 2, bytes(10))
NODE = make_id("node", 1, bytes(10))
NODES_1 = AuthorityRow("nodes-1", "nodes", 1, "active", b"\x00der", "file:nodes-1", NOW)
SERVICES_1 = AuthorityRow("services-1", "services", 1, "active", b"der", "file:services-1", NOW, "é")
TBS = b"\x00tbs"
CERTIFICATE = b"\x00certificate"
ACTOR = "service/fabric"
_PUBLIC_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def entry(generation: int = 1, **changes: Any) -> AuditRow:
    """An audit entry about a generation of the node, with a new id."""
    row = AuditRow(id="", at=NOW, actor=ACTOR, action="test", tenant=TENANT, node=NODE, generation=generation)
    return msgspec.structs.replace(row, **{"id": make_id("aud", 1, _made.pop()), **changes})


_made = [number.to_bytes(10, "big") for number in range(10_000, 0, -1)]


def key_hash(number: int) -> str:
    """The simulated SPKI hash of key `number`."""
    return f"{number:064x}"


def order(number: int, profile: ProfileName = "device", *, generation: int = 1, key: int = 0, **changes: Any) -> Order:
    """An order for the serial `number`. Its key is `key`, or else a key that no other order uses."""
    is_node = profile in ("device", "session")
    wanted = Wanted(
        profile=profile,
        serial=number,
        common_name="test",
        key=RequestedKey(_PUBLIC_KEY, b"", key_hash(key or number), b""),
        not_before=NOW,
        not_after=NOW + DAY,
        generation=generation if is_node else 0,
    )
    made = Order(
        request_key=f"{ACTOR}/{number}",
        caller=ACTOR,
        wanted=wanted,
        authority="nodes-1" if is_node else "services-1",
        shard={"device": "nodes-1.1", "service": "services-1.1"}.get(profile, ""),
        tenant=TENANT if is_node else "",
        node=NODE if is_node else "",
        service="fabric" if profile == "service" else "",
    )
    return msgspec.structs.replace(made, **changes)


async def adopt(stores: Stores) -> None:
    """Add both issuing CAs as active authorities, with a shard each."""
    assert await stores.authorities.adopt([NODES_1, SERVICES_1], [entry(0), entry(0)])
    for authority in ("nodes-1", "services-1"):
        await stores.shards.reserve(authority, 100, 5000)


async def issue(stores: Stores, made: Order, at: datetime = NOW) -> str:
    """Record and store a certificate. Return its serial as text."""
    assert await stores.issuance.record(made, TBS, at) is None
    assert await stores.issuance.store_certificate(made, CERTIFICATE)
    return serial_text(made.wanted.serial)


async def records(stores: Stores) -> dict[int, CheckedRecord]:
    """All records by serial."""
    return {int(record.serial, 16): record for record in await stores.checker_reads.records("")}


async def states(stores: Stores) -> dict[int, str]:
    """The states of all records by serial."""
    return {serial: record.state for serial, record in (await records(stores)).items()}
