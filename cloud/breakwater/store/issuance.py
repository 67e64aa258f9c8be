"""Store: records of issuances, made before the key is used, completed afterwards, or orphaned.

Rules: a record is durable before `record` returns, and everything that could forbid it is judged in its own
transaction; only a record that is neither orphaned nor of a closed generation gets its certificate; a record that may
be another process's work in progress is left alone.
"""

from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from piccolo.columns import Column
from piccolo.custom_types import Combinable
from piccolo.query.functions import Count

from cloud.breakwater.errors import AuthorityRetired, Conflict, CsrRefused, GenerationClosed, NotAdmitted, StillRunning
from cloud.breakwater.pkix.profiles import PROFILE_VERSION, Wanted
from cloud.breakwater.store.generations import (
    DEVICE_OF_GENERATION,
    GENERATION_NOT_CLOSED,
    GenerationStore,
    generation_id,
)
from cloud.breakwater.store.revocation_writes import ANNOUNCED, announce
from cloud.breakwater.tables import Authority, Closing, Generation, ServiceHost
from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.contracts.breakwater import REASON_NUMBERS
from cloud.storage import (
    Mapper,
    ServiceEngine,
    Statement,
    compiled,
    exists,
    insert_if,
    insert_into,
    literal,
    missing,
    param,
    params,
    sql,
    value_of,
)

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


class _Earlier(msgspec.Struct, frozen=True):
    """The record that a request made before, and the state of its authority."""

    serial: str
    profile: str
    state: State
    node: str
    generation: int
    service: str
    spki_sha256: str
    certificate: bytes | None
    authority: str
    recorded_at: datetime
    not_after: datetime
    authority_state: str | None


class Device(msgspec.Struct, frozen=True):
    """The newest device certificate of a generation: its key and dates."""

    spki_sha256: str
    not_before: datetime
    not_after: datetime


class ServiceHostName(msgspec.Struct, frozen=True):
    """A DNS or IP name that stands in a service's certificate."""

    kind: HostKind
    value: str


_AUTHORITY_STATE = value_of(Authority.select(Authority.state).where(Authority.id == Certificate.authority))
_EARLIER = Mapper(_Earlier, Certificate, authority_state=_AUTHORITY_STATE)
_DEVICE = Mapper(Device, Certificate)
_HOST = Mapper(ServiceHostName, ServiceHost)

_KEY_TAKEN_BY = Certificate.select(Certificate.serial).where(
    Certificate.spki_sha256 == param("spki_sha256"),
    (Certificate.node != param("node"))
    | (Certificate.generation != param("generation"))
    | (Certificate.service != param("service"))
    | ((Certificate.state == "revoked") & (Certificate.reason != REASON_NUMBERS["superseded"])),
)
_KEY_TAKEN = compiled(_KEY_TAKEN_BY, limit=literal(1))
_KEY_IS_FREE = missing(_KEY_TAKEN_BY)
_IS_OPEN = exists(
    Generation.select(Generation.id).where(
        Generation.id == param("generation_id"), Generation.tenant == param("tenant"), Generation.closed_at.is_null()
    )
) & missing(
    Closing.select(Closing.node).where(Closing.node == param("node"), Closing.closed_up_to >= param("generation"))
)


def _authority_is(*states: str) -> Combinable:
    return exists(
        Authority.select(Authority.id).where(Authority.id == param("authority"), Authority.state.is_in(list(states)))
    )


def _record(condition: Combinable) -> Statement:
    """Insert a record if the condition holds and the request has none; returns its serial, or no row.

    One statement keeps issuance fast; what forbade a record is found out by others.
    """
    constants: dict[Column, Any] = {
        Certificate.state: "recorded",
        Certificate.certificate: None,
        Certificate.revoked_at: None,
        Certificate.reason: 0,
        Certificate.feed: 0,
    }
    insert = insert_if(Certificate, condition, constants)
    # Piccolo adds ON CONFLICT and RETURNING to its own INSERT only, which has no condition.
    return compiled(sql("{} ON CONFLICT (request_key) DO NOTHING RETURNING serial", insert))


_RECORD_NODE = _record(_KEY_IS_FREE & _authority_is("active") & _IS_OPEN)
_RECORD_SERVICE = _record(_KEY_IS_FREE & _authority_is("active"))
_RECORD_RESPONDER = _record(_KEY_IS_FREE & _authority_is("active", "old", "tainted"))
_BY_REQUEST = compiled(_EARLIER.select().where(Certificate.request_key == param("request_key")))
_RELEASE = compiled(Certificate.update({Certificate.request_key: None}).where(Certificate.serial == param("serial")))
_STORE = compiled(
    Certificate.update({**params(Certificate.certificate), Certificate.state: "issued"})
    .where(Certificate.serial == param("serial"), Certificate.state == "recorded", GENERATION_NOT_CLOSED)
    .returning(Certificate.serial)
)
_ORPHANED: dict[Column | str, Any] = {
    Certificate.state: "orphaned",
    Certificate.request_key: None,
    Certificate.revoked_at: param("now"),
}
_ORPHAN = compiled(
    Certificate.update(_ORPHANED)
    .where(Certificate.serial == param("serial"), Certificate.state == "recorded")
    .returning(*ANNOUNCED)
)
_IS_STALE = (Certificate.state == "recorded") & (Certificate.recorded_at <= param("before"))
_STALE = compiled(Certificate.select(Certificate.serial).where(_IS_STALE).limit(1))
_STALE_SERIALS = Certificate.select(Certificate.serial).where(_IS_STALE).order_by(Certificate.serial).limit(SWEEP_ROWS)
_ORPHAN_STALE = compiled(
    Certificate.update(_ORPHANED)
    .where(Certificate.state == "recorded", Certificate.serial.is_in(_STALE_SERIALS))
    .returning(*ANNOUNCED)
)
_STATE = compiled(Certificate.select(Certificate.state).where(Certificate.serial == param("serial")))
_NEWEST_DEVICE = compiled(
    _DEVICE.select()
    .where(DEVICE_OF_GENERATION, Certificate.state == "issued")
    .order_by(Certificate.recorded_at, Certificate.not_after, ascending=False)
    .limit(1)
)
_RENEWALS = compiled(
    Certificate.select(Certificate.serial).where(
        DEVICE_OF_GENERATION,
        Certificate.caller == param("caller"),
        Certificate.recorded_at > param("since"),
        Certificate.request_key.is_null() | (Certificate.request_key != param("but")),
    ),
    limit=param("limit"),
)
_HOSTS = compiled(
    _HOST.select().where(ServiceHost.service == param("service")).order_by(ServiceHost.position).limit(100)
)
_ADD_HOST = compiled(insert_into(ServiceHost).on_conflict(target=ServiceHost.id, action="DO NOTHING"))
_PING = compiled(Closing.select(Count(alias="rows")).where(Closing.node == param("node")))


def serial_text(serial: int) -> str:
    """The one spelling of a serial: lower-case hex, 40 letters."""
    return f"{serial:040x}"


class IssuanceStore:
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._generations = GenerationStore(engine)

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
            earlier = _EARLIER.read_one(await self._engine.fetch_one(_BY_REQUEST, request_key=order.request_key))
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
        values = {
            "serial": serial_text(wanted.serial),
            "request_key": order.request_key,
            "profile": wanted.profile,
            "tenant": order.tenant,
            "node": order.node,
            "generation": wanted.generation,
            "service": order.service,
            "spki_sha256": wanted.key.spki_sha256,
            "tbs": tbs,
            "not_before": wanted.not_before,
            "not_after": wanted.not_after,
            "caller": order.caller,
            "recorded_at": now,
            "authority": order.authority,
            "shard": order.shard,
            "profile_version": PROFILE_VERSION,
        }
        if order.node:
            identifier = generation_id(order.node, wanted.generation)
            return bool(await self._engine.fetch(_RECORD_NODE, **values, generation_id=identifier))
        statement = _RECORD_RESPONDER if wanted.profile == "responder" else _RECORD_SERVICE
        return bool(await self._engine.fetch(statement, **values))

    async def _require_open(self, order: Order) -> None:
        generation = order.wanted.generation
        if order.node and not await self._generations.is_open(order.tenant, order.node, generation):
            raise GenerationClosed(f"generation {generation} of this node is not open")

    async def _require_free_key(self, order: Order) -> None:
        wanted = order.wanted
        if await self._engine.fetch(
            _KEY_TAKEN,
            spki_sha256=wanted.key.spki_sha256,
            node=order.node,
            generation=wanted.generation,
            service=order.service,
        ):
            raise CsrRefused("the key is not new: it belongs to another subject or generation, or was revoked")

    def _repeated(self, earlier: _Earlier, order: Order, now: datetime) -> Stored | None:
        """The certificate of an earlier record under the same request; None if a new one is to be made."""
        wanted = order.wanted
        same = (earlier.profile, earlier.node, earlier.service, earlier.generation, earlier.spki_sha256) == (
            wanted.profile,
            order.node,
            order.service,
            wanted.generation,
            wanted.key.spki_sha256,
        )
        if not same:
            raise Conflict("this request id was used for another key, generation or kind of certificate")
        if earlier.state == "revoked":
            raise Conflict("the certificate of this request is revoked")
        if earlier.state == "issued":
            if earlier.certificate is None or earlier.not_after <= now:
                return None
            trusted = earlier.authority_state not in ("tainted", "revoked")
            return Stored(earlier.certificate, earlier.authority) if trusted else None
        if self.shared and earlier.recorded_at > now - IN_FLIGHT:
            raise StillRunning("the same request is being answered by another process")
        return None

    async def _give_up(self, earlier: _Earlier, now: datetime) -> None:
        if earlier.state == "issued":
            await self._engine.fetch(_RELEASE, serial=earlier.serial)
        else:
            await announce(self._engine, await self._engine.fetch(_ORPHAN, serial=earlier.serial, now=now))

    async def store_certificate(self, order: Order, certificate: bytes) -> bool:
        """Store the certificate of a record; False if the record was orphaned or its generation closed meanwhile.

        One statement is enough: a close that does not see the record has committed before it was made, and one that
        does changes this very row.
        """
        serial = serial_text(order.wanted.serial)
        return bool(await self._engine.fetch(_STORE, serial=serial, certificate=certificate))

    async def orphan(self, order: Order, now: datetime) -> bool:
        """Give up one record of this process; False if it is not `recorded` any more."""
        async with self._engine.transaction(order.subject):
            rows = await self._engine.fetch(_ORPHAN, serial=serial_text(order.wanted.serial), now=now)
            await announce(self._engine, rows)
        return bool(rows)

    async def orphan_stale(self, now: datetime, age: timedelta) -> list[str]:
        """Give up every record without a certificate that is at least so old. Returns their serials.

        It looks first: nearly always there is none, and the transaction would make every issuance wait.
        """
        found: list[str] = []
        while await self._engine.fetch(_STALE, before=now - age):
            async with self._engine.transaction():
                rows = await self._engine.fetch(_ORPHAN_STALE, before=now - age, now=now)
                await announce(self._engine, rows)
            found += [row["serial"] for row in rows]
        return found

    async def is_revoked(self, serial: int) -> bool:
        """Whether a serial is revoked or orphaned; an unknown one is not."""
        return await self._is_revoked(serial_text(serial))

    async def _is_revoked(self, serial: str) -> bool:
        row = await self._engine.fetch_one(_STATE, serial=serial)
        return row is not None and row["state"] in ("revoked", "orphaned")

    async def device(self, node: str, generation: int) -> Device | None:
        """The newest device certificate of a generation."""
        return _DEVICE.read_one(await self._engine.fetch_one(_NEWEST_DEVICE, node=node, generation=generation))

    async def renewals(self, caller: str, node: str, generation: int, since: datetime, but: str, count_max: int) -> int:
        """How many device certificates `caller` has asked for since then, under another request key than `but`."""
        rows = await self._engine.fetch(
            _RENEWALS, node=node, generation=generation, caller=caller, since=since, but=but, limit=count_max
        )
        return len(rows)

    async def hosts(self, service: str) -> tuple[ServiceHostName, ...]:
        """The host names recorded for a service, in order."""
        return tuple(_HOST.read(row) for row in await self._engine.fetch(_HOSTS, service=service))

    async def add_hosts(self, service: str, hosts: tuple[ServiceHostName, ...]) -> None:
        """Record host names; those that are there stay."""
        async with self._engine.transaction():
            for position, host in enumerate(hosts):
                name = f"{service}:{host.kind}:{host.value}"
                await self._engine.fetch(_ADD_HOST, id=name, service=service, position=position, **_HOST.values(host))

    async def ping(self) -> None:
        """A query that fails when the database cannot answer."""
        await self._engine.fetch(_PING, node="")
