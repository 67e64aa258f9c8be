"""Records of issuances: made before the key is used, completed afterwards, or given up as orphans.

Knows no keys and signs nothing. Rules kept here: a record is durable before `record` returns, and everything that
could forbid it is judged in its own transaction; only a record that is neither orphaned nor of a closed generation
ever gets its certificate; a record that may be another process's work in progress is left alone.
"""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from cloud.breakwater.errors import AuthorityRetired, Conflict, CsrRefused, GenerationClosed, NotAdmitted, StillRunning
from cloud.breakwater.pkix.profiles import PROFILE_VERSION, Wanted
from cloud.breakwater.store.generations import generation_id
from cloud.breakwater.store.revocation_writes import announce
from cloud.storage import Row, ServiceEngine, Statement

State = Literal["recorded", "issued", "revoked", "orphaned"]
HostKind = Literal["dns", "ip"]

IN_FLIGHT = timedelta(seconds=60)
"""A record younger than this may be at the signer of another replica: an issuance is ended after half of it."""
SWEEP_ROWS = 500


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked for which certificate, from which authority. `request_key` is unique to the caller and its request.

    `shown` is the serial of the service's certificate that it was asked with; empty when there was none.
    """

    request_key: str
    caller: str
    wanted: Wanted
    authority: str
    shard: str = ""
    tenant: str = ""
    node: str = ""
    service: str = ""
    shown: str = ""

    @property
    def subject(self) -> str:
        """What this order and a close exclude each other on."""
        return f"node:{self.node}" if self.node else f"service:{self.service}"


class Stored(msgspec.Struct, frozen=True):
    """The certificate that the same request has got already, and the authority that signed it."""

    certificate: bytes
    authority: str


class Device(msgspec.Struct, frozen=True):
    """The newest device certificate of a generation: its key and dates."""

    spki_sha256: str
    not_before: datetime
    not_after: datetime


class ServiceHostName(msgspec.Struct, frozen=True):
    """A DNS or IP name that stands in a service's certificate."""

    kind: HostKind
    value: str


_COLUMNS = (
    "INSERT INTO certificate (serial, request_key, profile, state, tenant, node, generation, service, spki_sha256, "
    "tbs, not_before, not_after, caller, recorded_at, authority, shard, reason, feed, profile_version) "
    "SELECT {}, {}, {}, 'recorded', {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, 0, 0, {} "
)
_KEY_IS_FREE = (
    "NOT EXISTS (SELECT 1 FROM certificate k WHERE k.spki_sha256 = {} AND (k.node <> {} OR k.generation <> {} "
    "OR k.service <> {} OR (k.state = 'revoked' AND k.reason <> 4))) "
)
_IS_OPEN = (
    "EXISTS (SELECT 1 FROM generation g WHERE g.id = {} AND g.tenant = {} AND g.closed_at IS NULL) "
    "AND NOT EXISTS (SELECT 1 FROM closing c WHERE c.node = {} AND c.closed_up_to >= {}) "
)
_IS_ACTIVE = "EXISTS (SELECT 1 FROM authority a WHERE a.id = {} AND a.state = 'active') "
_ONCE = "ON CONFLICT (request_key) DO NOTHING RETURNING serial"
_RECORD_NODE = Statement(f"{_COLUMNS}WHERE {_KEY_IS_FREE}AND {_IS_ACTIVE}AND {_IS_OPEN}{_ONCE}")
_RECORD_SERVICE = Statement(f"{_COLUMNS}WHERE {_KEY_IS_FREE}AND {_IS_ACTIVE}{_ONCE}")
_SIGNS = "EXISTS (SELECT 1 FROM authority a WHERE a.id = {} AND a.state IN ('active', 'old', 'tainted')) "
_RECORD_RESPONDER = Statement(f"{_COLUMNS}WHERE {_KEY_IS_FREE}AND {_SIGNS}{_ONCE}")
"""One statement a record: it inserts, or says by no row that something forbids it (`_WHY_...` find out what)."""
_BY_REQUEST = Statement(
    "SELECT serial, profile, state, node, generation, service, spki_sha256, certificate, authority, recorded_at, "
    "not_after, shard, feed, (SELECT a.state FROM authority a WHERE a.id = certificate.authority) AS authority_state "
    "FROM certificate WHERE request_key = {}"
)
_WHY_OPEN = Statement(f"SELECT 1 AS open WHERE {_IS_OPEN}")
_WHY_KEY = Statement(f"SELECT 1 AS free WHERE {_KEY_IS_FREE}")
_RELEASE = Statement("UPDATE certificate SET request_key = NULL WHERE serial = {}")
_STORE = Statement(
    "UPDATE certificate SET certificate = {}, state = 'issued' WHERE serial = {} AND state = 'recorded' "
    "AND NOT EXISTS (SELECT 1 FROM closing c WHERE c.node = certificate.node "
    "AND c.closed_up_to >= certificate.generation) "
    "AND NOT EXISTS (SELECT 1 FROM generation g WHERE g.node = certificate.node "
    "AND g.generation = certificate.generation AND g.closed_at IS NOT NULL) RETURNING serial"
)
_ORPHAN = Statement(
    "UPDATE certificate SET state = 'orphaned', request_key = NULL, revoked_at = {} WHERE serial = {} "
    "AND state = 'recorded' RETURNING serial, shard, service, feed"
)
_ORPHAN_STALE = Statement(
    "UPDATE certificate SET state = 'orphaned', request_key = NULL, revoked_at = {} WHERE state = 'recorded' "
    "AND serial IN (SELECT serial FROM certificate WHERE state = 'recorded' AND recorded_at <= {} "
    "ORDER BY serial LIMIT {}) RETURNING serial, shard, service, feed"
)
_STALE = Statement("SELECT 1 AS stale FROM certificate WHERE state = 'recorded' AND recorded_at <= {} LIMIT 1")
_STATE = Statement("SELECT state FROM certificate WHERE serial = {}")
_DEVICE = Statement(
    "SELECT spki_sha256, not_before, not_after FROM certificate WHERE node = {} AND generation = {} "
    "AND profile = 'device' AND state = 'issued' ORDER BY recorded_at DESC, not_after DESC LIMIT 1"
)
_RENEWALS = Statement(
    "SELECT COUNT(*) AS n FROM (SELECT 1 FROM certificate WHERE node = {} AND generation = {} AND profile = 'device' "
    "AND caller = {} AND recorded_at > {} AND (request_key IS NULL OR request_key <> {}) LIMIT {}) AS few"
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


class IssuanceStore:
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    @property
    def shared(self) -> bool:
        """Whether other processes may issue on this database: one SQLite file serves one process."""
        return self._engine.engine_type != "sqlite"

    async def record(self, order: Order, tbs: bytes, now: datetime) -> Stored | None:
        """Make the record durable, or return the certificate that the same request has got already.

        A record without a certificate under the same request, which nobody can be at work on any more, becomes an
        orphan and a new one is made; so is a new one when the certificate has expired or its authority lost its trust.

        Raises:
            GenerationClosed: closed, or never opened for this tenant.
            Conflict: the request id was used for another key, generation or profile, or its certificate is revoked.
            CsrRefused: the key belongs to something else, or a certificate of it is revoked.
            NotAdmitted: the certificate that was shown is revoked.
            AuthorityRetired: the authority is not active any more.
            StillRunning: another replica may be at work on the same request.
        """
        async with self._engine.transaction(order.subject, f"spki:{order.wanted.key.spki_sha256}"):
            # Looked at here, for a revocation excludes this transaction: the guard's look may be half a minute old.
            if order.shown and await self._is_revoked(order.shown):
                raise NotAdmitted("the certificate that was shown is revoked")
            if await self._insert(order, tbs, now):
                return None
            await self._require_open(order)
            earlier = await self._engine.fetch_one(_BY_REQUEST, order.request_key)
            if earlier is not None:
                stored = self._repeated(earlier, order, now)
                if stored is not None:
                    return stored
                await self._give_up(earlier, now)
            await self._require_free_key(order)
            if earlier is None or not await self._insert(order, tbs, now):
                raise AuthorityRetired(f"the authority {order.authority} does not issue any more")
        return None

    async def _insert(self, order: Order, tbs: bytes, now: datetime) -> bool:
        wanted = order.wanted
        key = wanted.key.spki_sha256
        values = (
            serial_text(wanted.serial),
            order.request_key,
            wanted.profile,
            order.tenant,
            order.node,
            wanted.generation,
            order.service,
            key,
            tbs,
            wanted.not_before,
            wanted.not_after,
            order.caller,
            now,
            order.authority,
            order.shard,
            PROFILE_VERSION,
            key,
            order.node,
            wanted.generation,
            order.service,
            order.authority,
        )
        if order.node:
            return bool(await self._engine.fetch(_RECORD_NODE, *values, *_open_values(order)))
        statement = _RECORD_RESPONDER if wanted.profile == "responder" else _RECORD_SERVICE
        return bool(await self._engine.fetch(statement, *values))

    async def _require_open(self, order: Order) -> None:
        if order.node and not await self._engine.fetch(_WHY_OPEN, *_open_values(order)):
            raise GenerationClosed(f"generation {order.wanted.generation} of this node is not open")

    async def _require_free_key(self, order: Order) -> None:
        wanted = order.wanted
        if not await self._engine.fetch(_WHY_KEY, wanted.key.spki_sha256, order.node, wanted.generation, order.service):
            raise CsrRefused("the key is not new: it belongs to another subject or generation, or was revoked")

    def _repeated(self, row: Row, order: Order, now: datetime) -> Stored | None:
        """The certificate of an earlier record under the same request; None if a new one is to be made."""
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
            useful = row["not_after"] > now and row["authority_state"] not in ("tainted", "revoked")
            return Stored(bytes(row["certificate"]), row["authority"]) if useful else None
        if self.shared and row["recorded_at"] > now - IN_FLIGHT:
            raise StillRunning("the same request is being answered by another process")
        return None

    async def _give_up(self, row: Row, now: datetime) -> None:
        if row["state"] == "issued":
            await self._engine.fetch(_RELEASE, row["serial"])
        else:
            await announce(self._engine, await self._engine.fetch(_ORPHAN, now, row["serial"]))

    async def keep(self, order: Order, certificate: bytes) -> bool:
        """Store the certificate of a record; False if the record was orphaned or its generation closed meanwhile.

        One statement is enough: a close that does not see the record has committed before it was made, and one that
        does changes this very row.
        """
        return bool(await self._engine.fetch(_STORE, certificate, serial_text(order.wanted.serial)))

    async def orphan(self, order: Order, now: datetime) -> bool:
        """Give up one record of this process; False if it is not `recorded` any more."""
        async with self._engine.transaction(order.subject):
            rows = await self._engine.fetch(_ORPHAN, now, serial_text(order.wanted.serial))
            await announce(self._engine, rows)
        return bool(rows)

    async def orphan_stale(self, now: datetime, age: timedelta) -> list[str]:
        """Give up every record without a certificate that is at least so old. Returns their serials.

        It looks first: nearly always there is none, and the transaction would make every issuance wait.
        """
        found: list[str] = []
        while await self._engine.fetch(_STALE, now - age):
            async with self._engine.transaction():
                rows = await self._engine.fetch(_ORPHAN_STALE, now, now - age, SWEEP_ROWS)
                await announce(self._engine, rows)
            found += [row["serial"] for row in rows]
        return found

    async def is_revoked(self, serial: int) -> bool:
        """Whether a serial is revoked or orphaned; an unknown one is not."""
        return await self._is_revoked(serial_text(serial))

    async def _is_revoked(self, serial: str) -> bool:
        row = await self._engine.fetch_one(_STATE, serial)
        return row is not None and row["state"] in ("revoked", "orphaned")

    async def device(self, node: str, generation: int) -> Device | None:
        """The newest device certificate of a generation."""
        row = await self._engine.fetch_one(_DEVICE, node, generation)
        return None if row is None else msgspec.convert(row, Device)

    async def renewals(self, caller: str, node: str, generation: int, since: datetime, but: str, count_max: int) -> int:
        """How many device certificates `caller` has asked for since then, under another request key than `but`."""
        row = await self._engine.fetch_one(_RENEWALS, node, generation, caller, since, but, count_max)
        return 0 if row is None else int(row["n"])

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


def _open_values(order: Order) -> tuple[str, str, str, int]:
    generation = order.wanted.generation
    return generation_id(order.node, generation), order.tenant, order.node, generation
