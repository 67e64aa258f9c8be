"""All queries of Breakwater, and the transactions that keep its promises.

Knows no keys and signs nothing. Rules kept here: a record is durable before `record` returns; only a record that is
neither orphaned nor of a closed generation ever gets its certificate; closing blocks first, then revokes, in one
transaction; what was closed never opens again.
"""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.breakwater.errors import Conflict, GenerationClosed
from cloud.breakwater.profiles import Wanted
from cloud.storage import Row, ServiceEngine, Statement
from protocol.ids import SERVICE_NAMES

State = Literal["recorded", "issued", "revoked", "orphaned"]
HostKind = Literal["dns", "ip"]


class Order(msgspec.Struct, frozen=True):
    """Who asked for which certificate. `request_key` is unique to the caller and its request id."""

    request_key: str
    caller: str
    tenant: str
    node: str
    service: str
    wanted: Wanted


class Device(msgspec.Struct, frozen=True):
    """The newest device certificate of a generation: its key and dates."""

    spki_sha256: str
    not_before: datetime
    not_after: datetime


class ServiceHostName(msgspec.Struct, frozen=True):
    """A DNS or IP name that stands in a service's certificate."""

    kind: HostKind
    value: str


class AuditEntry(msgspec.Struct, frozen=True):
    """One line of the audit: `action` is `generation.open`, `generation.close` (up to it) or `generation.close_one`."""

    id: str
    at: datetime
    caller: str
    action: str
    tenant: str
    node: str
    generation: int


_IS_OPEN = Statement(
    "SELECT g.tenant, g.generation, COALESCE(c.closed_up_to, 0) AS closed_up_to "
    "FROM generation g LEFT JOIN closing c ON c.node = g.node WHERE g.id = {} AND g.closed_at IS NULL"
)
_BY_REQUEST = Statement(
    "SELECT serial, profile, state, node, generation, service, spki_sha256, certificate "
    "FROM certificate WHERE request_key = {}"
)
_RECORD = Statement(
    "INSERT INTO certificate (serial, request_key, profile, state, tenant, node, generation, service, spki_sha256, "
    "tbs, not_before, not_after, caller, recorded_at) VALUES ({}, {}, {}, 'recorded', {}, {}, {}, {}, {}, {}, {}, {}, {}, {})"
)
_STORE = Statement(
    "UPDATE certificate SET certificate = {}, state = 'issued' WHERE serial = {} AND state = 'recorded' "
    "AND NOT EXISTS (SELECT 1 FROM closing c WHERE c.node = certificate.node "
    "AND c.closed_up_to >= certificate.generation) "
    "AND NOT EXISTS (SELECT 1 FROM generation g WHERE g.node = certificate.node "
    "AND g.generation = certificate.generation AND g.closed_at IS NOT NULL) RETURNING serial"
)
_ORPHAN = Statement(
    "UPDATE certificate SET state = 'orphaned', request_key = NULL, revoked_at = {} WHERE serial = {} "
    "AND state = 'recorded'"
)
_ORPHAN_ALL = Statement(
    "UPDATE certificate SET state = 'orphaned', request_key = NULL, revoked_at = {} WHERE state = 'recorded' "
    "RETURNING serial"
)
_STATE = Statement("SELECT state FROM certificate WHERE serial = {}")
_DEVICE = Statement(
    "SELECT spki_sha256, not_before, not_after FROM certificate WHERE node = {} AND generation = {} "
    "AND profile = 'device' AND state = 'issued' ORDER BY not_after DESC LIMIT 1"
)
_OPEN = Statement(
    "INSERT INTO generation (id, tenant, node, generation, opened_at) VALUES ({}, {}, {}, {}, {}) "
    "ON CONFLICT (id) DO NOTHING RETURNING id"
)
_OWNER = Statement(
    "SELECT tenant FROM generation WHERE node = {} UNION SELECT tenant FROM closing WHERE node = {} LIMIT 2"
)
_CLOSED_ALONE = Statement("SELECT id FROM generation WHERE id = {} AND closed_at IS NOT NULL")
_CLOSE_ALONE = Statement(
    "INSERT INTO generation (id, tenant, node, generation, opened_at, closed_at) VALUES ({}, {}, {}, {}, {}, {}) "
    "ON CONFLICT (id) DO UPDATE SET closed_at = excluded.closed_at WHERE generation.closed_at IS NULL RETURNING id"
)
_CLOSED_UP_TO = Statement("SELECT closed_up_to FROM closing WHERE node = {}")
_CLOSE = Statement(
    "INSERT INTO closing (node, tenant, closed_up_to, closed_at) VALUES ({}, {}, {}, {}) "
    "ON CONFLICT (node) DO UPDATE SET closed_up_to = excluded.closed_up_to, closed_at = excluded.closed_at "
    "WHERE closing.closed_up_to < excluded.closed_up_to RETURNING node"
)
_REVOKE = Statement(
    "UPDATE certificate SET state = 'revoked', revoked_at = COALESCE(revoked_at, {}) WHERE node = {} "
    "AND generation BETWEEN {} AND {} AND (state = 'recorded' OR (profile = 'device' AND state IN ('issued', 'orphaned')))"
)
_COUNT_REVOKED = Statement(
    "SELECT COUNT(*) AS revoked FROM certificate WHERE node = {} AND generation BETWEEN {} AND {} AND profile = 'device' "
    "AND state = 'revoked'"
)
_REVOKED_SERVICES = Statement(
    "SELECT serial FROM certificate WHERE service = {} AND state IN ('revoked', 'orphaned') AND not_after > {} "
    "ORDER BY serial LIMIT 1000"
)
_AUDIT = Statement(
    "INSERT INTO audit (id, at, caller, action, tenant, node, generation) VALUES ({}, {}, {}, {}, {}, {}, {})"
)
_HOSTS = Statement("SELECT kind, value FROM service_host WHERE service = {} ORDER BY position LIMIT 100")
_ADD_HOST = Statement(
    "INSERT INTO service_host (id, service, kind, value, position) VALUES ({}, {}, {}, {}, {}) "
    "ON CONFLICT (id) DO NOTHING"
)
_PING = Statement("SELECT COUNT(*) AS rows FROM closing WHERE node = {}")


def serial_text(serial: int) -> str:
    """The one spelling of a serial: lower-case hex, 40 letters."""
    return f"{serial:040x}"


def _generation_id(node: str, generation: int) -> str:
    return f"{node}.{generation}"


class Store:
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def is_open(self, tenant: str, node: str, generation: int) -> bool:
        """Whether a generation was opened, for this tenant, and not closed since."""
        row = await self._engine.fetch_one(_IS_OPEN, _generation_id(node, generation))
        return row is not None and row["tenant"] == tenant and row["closed_up_to"] < generation

    async def record(self, order: Order, tbs: bytes, now: datetime) -> bytes | None:
        """Make the record durable, or return the certificate that the same request has got already.

        The generation is judged in the same transaction. A record without a certificate under the same request is
        one that nobody works on any more: it becomes an orphan and a new one is made.

        Raises:
            GenerationClosed: closed, or never opened for this tenant.
            Conflict: the request id was used for another key, generation or profile.
        """
        wanted = order.wanted
        async with self._engine.transaction():
            if order.node and not await self.is_open(order.tenant, order.node, wanted.generation):
                raise GenerationClosed(f"generation {wanted.generation} of this node is not open")
            row = await self._engine.fetch_one(_BY_REQUEST, order.request_key)
            if row is not None:
                issued = _repeated(row, order)
                if issued is not None:
                    return issued
                await self._engine.fetch(_ORPHAN, now, row["serial"])
            await self._engine.fetch(
                _RECORD,
                serial_text(wanted.serial),
                order.request_key,
                wanted.profile,
                order.tenant,
                order.node,
                wanted.generation,
                order.service,
                wanted.key.spki_sha256,
                tbs,
                wanted.not_before,
                wanted.not_after,
                order.caller,
                now,
            )
        return None

    async def keep(self, serial: int, certificate: bytes) -> bool:
        """Store the certificate of a record; False if the record was orphaned or its generation closed meanwhile."""
        return bool(await self._engine.fetch(_STORE, certificate, serial_text(serial)))

    async def orphan_all(self, now: datetime) -> list[str]:
        """At start: give up every record without a certificate. Returns their serials."""
        return [row["serial"] for row in await self._engine.fetch(_ORPHAN_ALL, now)]

    async def is_revoked(self, serial: int) -> bool:
        """Whether a serial is revoked or orphaned; an unknown one is not."""
        row = await self._engine.fetch_one(_STATE, serial_text(serial))
        return row is not None and row["state"] in ("revoked", "orphaned")

    async def device(self, node: str, generation: int) -> Device | None:
        """The newest device certificate of a generation."""
        row = await self._engine.fetch_one(_DEVICE, node, generation)
        return None if row is None else msgspec.convert(row, Device)

    async def open_generation(self, entry: AuditEntry) -> None:
        """Open; nothing changes when it is open already.

        Raises:
            Conflict: closed, or the node belongs to another tenant.
        """
        async with self._engine.transaction():
            await self._require_owner(entry)
            closed = await self._engine.fetch_one(_CLOSED_UP_TO, entry.node)
            identifier = _generation_id(entry.node, entry.generation)
            alone = await self._engine.fetch_one(_CLOSED_ALONE, identifier)
            if alone is not None or (closed is not None and closed["closed_up_to"] >= entry.generation):
                raise Conflict(f"generation {entry.generation} of this node is closed for ever")
            opened = await self._engine.fetch(
                _OPEN,
                identifier,
                entry.tenant,
                entry.node,
                entry.generation,
                entry.at,
            )
            if opened:
                await self._audit(entry)

    async def close_generations(self, entry: AuditEntry) -> int:
        """Close every generation up to the entry's; returns how many device serials of them are revoked by now.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        async with self._engine.transaction():
            await self._require_owner(entry)
            if await self._engine.fetch(_CLOSE, entry.node, entry.tenant, entry.generation, entry.at):
                await self._audit(entry)
            return await self._revoke(entry, first=1)

    async def close_generation(self, entry: AuditEntry) -> int:
        """Close the entry's generation alone; returns how many of its device serials are revoked by now.

        Raises:
            Conflict: the node belongs to another tenant.
        """
        async with self._engine.transaction():
            await self._require_owner(entry)
            identifier = _generation_id(entry.node, entry.generation)
            if await self._engine.fetch(
                _CLOSE_ALONE, identifier, entry.tenant, entry.node, entry.generation, entry.at, entry.at
            ):
                await self._audit(entry)
            return await self._revoke(entry, first=entry.generation)

    async def _revoke(self, entry: AuditEntry, first: int) -> int:
        """Revoke what generations `first` to the entry's have; returns how many device serials are revoked."""
        await self._engine.fetch(_REVOKE, entry.at, entry.node, first, entry.generation)
        row = await self._engine.fetch_one(_COUNT_REVOKED, entry.node, first, entry.generation)
        return 0 if row is None else int(row["revoked"])

    async def _require_owner(self, entry: AuditEntry) -> None:
        owners = await self._engine.fetch(_OWNER, entry.node, entry.node)
        if any(row["tenant"] != entry.tenant for row in owners):
            raise Conflict("this node belongs to another tenant")

    async def _audit(self, entry: AuditEntry) -> None:
        await self._engine.fetch(
            _AUDIT, entry.id, entry.at, entry.caller, entry.action, entry.tenant, entry.node, entry.generation
        )

    async def revoked_services(self, now: datetime) -> tuple[str, ...]:
        """Serials of service certificates that are revoked or orphaned and have not expired."""
        found: list[str] = []
        for service in SERVICE_NAMES:
            found += [row["serial"] for row in await self._engine.fetch(_REVOKED_SERVICES, service, now)]
        return tuple(found)

    async def hosts(self, service: str) -> tuple[ServiceHostName, ...]:
        """The host names recorded for a service, in order."""
        return tuple(msgspec.convert(row, ServiceHostName) for row in await self._engine.fetch(_HOSTS, service))

    async def add_hosts(self, service: str, hosts: tuple[ServiceHostName, ...]) -> None:
        """Record host names; those that are there stay."""
        async with self._engine.transaction():
            for position, host in enumerate(hosts):
                name = f"{service}:{host.kind}:{host.value}"
                await self._engine.fetch(_ADD_HOST, name, service, host.kind, host.value, position)

    async def ping(self) -> None:
        """A query that fails when the database cannot answer."""
        await self._engine.fetch(_PING, "")


def _repeated(row: Row, order: Order) -> bytes | None:
    """The certificate of an earlier record under the same request; None if that one never got it."""
    wanted = order.wanted
    same = (row["profile"], row["node"], row["service"], row["generation"], row["spki_sha256"]) == (
        wanted.profile,
        order.node,
        order.service,
        wanted.generation,
        wanted.key.spki_sha256,
    )
    if not same:
        raise Conflict("this request id was used for another key, generation or kind of certificate")
    if row["state"] == "revoked":
        raise Conflict("the certificate of this request is revoked")
    if row["state"] == "issued":
        return bytes(row["certificate"])
    return None
