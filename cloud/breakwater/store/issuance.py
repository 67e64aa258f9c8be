"""Store: records of issuances. A record is made before the CA key is used. Then it gets its certificate or is orphaned.

Rules: `record` checks everything that can forbid an issuance and makes the record durable, in one transaction. A record
gets its certificate only if it is not orphaned and its generation is open. A record that another process may be working
on is not touched.
"""

from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from piccolo.columns import Column
from piccolo.custom_types import Combinable
from piccolo.query.functions import Count

from cloud.breakwater.errors import (
    AuthorityRetired,
    Conflict,
    CsrRefused,
    EnrolmentRefused,
    GenerationClosed,
    NotAdmitted,
    StillRunning,
)
from cloud.breakwater.pkix.profiles import PROFILE_VERSION, Wanted
from cloud.breakwater.store.events import AUTHORITIES, EventStore
from cloud.breakwater.store.generations import (
    DEVICE_OF_GENERATION,
    GENERATION_NOT_CLOSED,
    GenerationStore,
    generation_id,
)
from cloud.breakwater.store.revocation_writes import ANNOUNCED, announce
from cloud.breakwater.tables import Authority, Closing, Enrolment, Generation, ServiceHost
from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.contracts.breakwater import REASON_NUMBERS
from cloud.crypto.validity import outside
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
from protocol.limits import CLOCK_SKEW

State = Literal["recorded", "issued", "revoked", "orphaned"]
HostKind = Literal["dns", "ip"]

IN_FLIGHT = timedelta(seconds=60)
"""A younger record may be in work at another replica. A process gives up an issuance after half of this."""
SWEEP_ROWS = 500


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate to issue: its caller, its content and its authority.

    `request_key` identifies the caller's request. `shown` is the serial (hex) of the certificate with which a service
    authenticated its request; it is empty if there was none.
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
        """The name of the lock that this order shares with a close or a revocation."""
        return f"node:{self.node}" if self.node else f"service:{self.service}"


def enrolment_of(caller: str) -> str:
    """Return the id of the one-time secret that a caller's name contains; empty for other callers."""
    kind, _, name = caller.partition("/")
    return name if kind == "enrolment" else ""


class Stored(msgspec.Struct, frozen=True):
    """The certificate (DER) that an earlier call of the same request got, and the authority that signed it."""

    certificate: bytes
    authority: str


class _Earlier(msgspec.Struct, frozen=True):
    """The record of an earlier call of the same request, and the state of its authority."""

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
    not_before: datetime
    not_after: datetime
    authority_state: str | None


class Device(msgspec.Struct, frozen=True):
    """The key and the dates of a generation's newest device certificate."""

    spki_sha256: str
    not_before: datetime
    not_after: datetime


class ServiceHostName(msgspec.Struct, frozen=True):
    """A DNS name or IP address in a service's certificate."""

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
    """Compile an INSERT of a record that runs if the condition holds and the request has no record.

    It returns the serial, or no row. One statement keeps issuance fast. After "no row", other queries find the reason.
    """
    constants: dict[Column, Any] = {
        Certificate.state: "recorded",
        Certificate.certificate: None,
        Certificate.revoked_at: None,
        Certificate.reason: 0,
    }
    insert = insert_if(Certificate, condition, constants)
    # Piccolo adds ON CONFLICT and RETURNING only to its own INSERT, which cannot have a condition.
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
_IS_STALE = (Certificate.state == "recorded") & (
    (Certificate.recorded_at <= param("before")) | (Certificate.recorded_at > param("latest"))
)
_STALE = compiled(Certificate.select(Certificate.serial).where(_IS_STALE).limit(1))
_STALE_SERIALS = Certificate.select(Certificate.serial).where(_IS_STALE).order_by(Certificate.serial).limit(SWEEP_ROWS)
_ORPHAN_STALE = compiled(
    Certificate.update(_ORPHANED)
    .where(Certificate.state == "recorded", Certificate.serial.is_in(_STALE_SERIALS))
    .returning(*ANNOUNCED)
)
_SECRET_LIVES = compiled(
    Enrolment.select(Enrolment.id).where(Enrolment.id == param("id"), Enrolment.expires_at > param("now"))
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
_SESSIONS = compiled(
    Certificate.select(Certificate.recorded_at)
    .where(
        Certificate.node == param("node"),
        Certificate.recorded_at > param("since"),
        Certificate.profile == "session",
    )
    .order_by(Certificate.recorded_at, ascending=False),
    limit=param("limit"),
)
_HOSTS = compiled(
    _HOST.select().where(ServiceHost.service == param("service")).order_by(ServiceHost.position).limit(100)
)
_ADD_HOST = compiled(insert_into(ServiceHost).on_conflict(target=ServiceHost.id, action="DO NOTHING"))
_PING = compiled(Closing.select(Count(alias="rows")).where(Closing.node == param("node")))


def serial_text(serial: int) -> str:
    """Return a serial in the form of the records: 40 lower-case hex digits."""
    return f"{serial:040x}"


class IssuanceStore:
    """The queries of issuances."""

    def __init__(self, engine: ServiceEngine, events: EventStore) -> None:
        self._engine = engine
        self._events = events
        self._generations = GenerationStore(engine, events)

    @property
    def shared(self) -> bool:
        """Whether other processes may issue on this database. A SQLite file serves only one process."""
        return self._engine.engine_type != "sqlite"

    async def record(self, order: Order, tbs: bytes, now: datetime) -> Stored | None:
        """Make a durable record, or return the certificate that the same request already has.

        `tbs` are the linted to-be-signed bytes. An earlier record of the same request is replaced in two cases. If it
        has no certificate and no process can be working on it, it becomes an orphan. If its certificate has expired or
        its authority is no longer trusted, it gives up the request key.

        Raises:
            GenerationClosed: the generation is closed, or was never opened for this tenant.
            Conflict: the request id was used for another key, generation or profile, or its certificate is revoked.
            CsrRefused: the key belongs to another subject or generation, or a certificate for it is revoked.
            NotAdmitted: the certificate that authenticated the request is revoked.
            EnrolmentRefused: the one-time secret of the request was revoked or has expired.
            AuthorityRetired: the authority may not issue any more.
            StillRunning: another replica may be working on the same request.
        """
        enrolment = enrolment_of(order.caller)
        reads = (AUTHORITIES, *((enrolment,) if enrolment else ()))
        async with self._engine.transaction(order.subject, f"spki:{order.wanted.key.spki_sha256}", reads=reads):
            # Checked in this transaction, which excludes revocations. The guard's check may be half a minute old.
            if order.shown and await self._is_revoked(order.shown):
                raise NotAdmitted("the certificate that authenticated the request is revoked")
            if enrolment and not await self._engine.fetch(_SECRET_LIVES, id=enrolment, now=now):
                raise EnrolmentRefused("the secret was revoked or has expired in the meantime")
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
                raise AuthorityRetired(f"the authority {order.authority} does not issue any more; ask again")
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
            raise CsrRefused("the key was used for another subject or generation, or was revoked; use a new key")

    def _repeated(self, earlier: _Earlier, order: Order, now: datetime) -> Stored | None:
        """Return the certificate of an earlier record of the same request; None if a new record is needed."""
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
            if earlier.certificate is None or outside(earlier.not_before, earlier.not_after, now):
                return None
            trusted = earlier.authority_state not in ("tainted", "revoked")
            return Stored(earlier.certificate, earlier.authority) if trusted else None
        if self.shared and now - IN_FLIGHT < earlier.recorded_at <= now + CLOCK_SKEW:
            raise StillRunning("another process is working on the same request; ask again")
        return None

    async def _give_up(self, earlier: _Earlier, now: datetime) -> None:
        if earlier.state == "issued":
            await self._engine.fetch(_RELEASE, serial=earlier.serial)
        else:
            await announce(
                self._engine, self._events, await self._engine.fetch(_ORPHAN, serial=earlier.serial, now=now)
            )

    async def store_certificate(self, order: Order, certificate: bytes) -> bool:
        """Store the certificate of a record. Return False if the record was orphaned or its generation closed.

        One statement without a lock is enough. A close either committed before the record was made, and then there is
        no record, or it changes the row of the record.
        """
        serial = serial_text(order.wanted.serial)
        return bool(await self._engine.fetch(_STORE, serial=serial, certificate=certificate))

    async def orphan(self, order: Order, now: datetime) -> bool:
        """Make a record of this process an orphan. Return False if its state is not `recorded` any more."""
        async with self._engine.transaction(order.subject):
            rows = await self._engine.fetch(_ORPHAN, serial=serial_text(order.wanted.serial), now=now)
            await announce(self._engine, self._events, rows)
        return bool(rows)

    async def orphan_stale(self, now: datetime, age: timedelta) -> list[str]:
        """Make an orphan of every record in state `recorded` that is at least `age` old. Return their serials.

        A record from more than `CLOCK_SKEW` in the future is stale too: a clock that was ahead made it. A query without
        a lock runs first. It nearly always finds nothing. The statement changes only records that still are in state
        `recorded`, so it needs no lock of their subjects.
        """
        found: list[str] = []
        bounds = {"before": now - age, "latest": now + CLOCK_SKEW}
        while await self._engine.fetch(_STALE, **bounds):
            async with self._engine.transaction("stale"):
                rows = await self._engine.fetch(_ORPHAN_STALE, **bounds, now=now)
                await announce(self._engine, self._events, rows)
            found += [row["serial"] for row in rows]
        return found

    async def is_revoked(self, serial: int) -> bool:
        """Whether a serial is revoked or orphaned. An unknown serial is not."""
        return await self._is_revoked(serial_text(serial))

    async def _is_revoked(self, serial: str) -> bool:
        row = await self._engine.fetch_one(_STATE, serial=serial)
        return row is not None and row["state"] in ("revoked", "orphaned")

    async def device(self, node: str, generation: int) -> Device | None:
        """Return the newest issued device certificate of a generation; None if there is none."""
        return _DEVICE.read_one(await self._engine.fetch_one(_NEWEST_DEVICE, node=node, generation=generation))

    async def sessions_of(self, node: str, since: datetime, limit: int) -> list[datetime]:
        """Return the times of the node's newest sessions after `since`, the oldest first, at most `limit`."""
        rows = await self._engine.fetch(_SESSIONS, node=node, since=since, limit=limit)
        return [row["recorded_at"] for row in reversed(rows)]

    async def renewals(self, caller: str, node: str, generation: int, since: datetime, but: str, count_max: int) -> int:
        """Count the generation's device certificates that `caller` requested after `since`, except the request `but`.

        Counting stops at `count_max`.
        """
        rows = await self._engine.fetch(
            _RENEWALS, node=node, generation=generation, caller=caller, since=since, but=but, limit=count_max
        )
        return len(rows)

    async def hosts(self, service: str) -> tuple[ServiceHostName, ...]:
        """Return the host names that are recorded for a service, in order."""
        return tuple(_HOST.read(row) for row in await self._engine.fetch(_HOSTS, service=service))

    async def add_hosts(self, service: str, hosts: tuple[ServiceHostName, ...]) -> None:
        """Record host names for a service. Existing names stay."""
        async with self._engine.transaction(f"service:{service}"):
            for position, host in enumerate(hosts):
                name = f"{service}:{host.kind}:{host.value}"
                await self._engine.fetch(_ADD_HOST, id=name, service=service, position=position, **_HOST.values(host))

    async def ping(self) -> None:
        """Run a query. Raises StorageError when the database cannot answer."""
        await self._engine.fetch(_PING, node="")
