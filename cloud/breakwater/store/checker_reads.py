"""Store: the checker's reads of all records, in pages by key. It changes nothing."""

from datetime import datetime

import msgspec
from piccolo.columns.combination import WhereRaw
from piccolo.query.functions import Case, Coalesce, Count, Sum, When

from cloud.breakwater.store.generations import GENERATION_NOT_CLOSED
from cloud.breakwater.tables import Closing, Crl, CrlShard, Generation
from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.contracts.breakwater_events import SERVICE_CERTIFICATE
from cloud.events.tables import EventObject
from cloud.storage import Mapper, ServiceEngine, compiled, literal, param, sql, value_of

VIEW_TRIES = 20


class CheckedRecord(msgspec.Struct, frozen=True):
    """A row of `certificate`, and whether its generation is closed.

    `closed_up_to` is the highest closed generation of the node, 0 if there is none. `closed_alone` is 1 if this
    generation was closed individually. `has_event` is 1 if the certificate was reported to the other services as revoked.
    """

    serial: str
    request_key: str | None
    profile: str
    state: str
    tenant: str
    node: str
    generation: int
    service: str
    spki_sha256: str
    tbs: bytes
    certificate: bytes | None
    not_before: datetime
    not_after: datetime
    recorded_at: datetime
    revoked_at: datetime | None
    authority: str
    shard: str
    reason: int
    profile_version: int
    closed_up_to: int
    closed_alone: int
    has_event: int


class CheckedShard(msgspec.Struct, frozen=True):
    """A row of `shard`, and the number of certificates in the shard."""

    id: str
    authority: str
    reserved: int
    revision: int
    published_revision: int
    crl_number: int
    published_number: int
    certificates: int


class CheckedCrl(msgspec.Struct, frozen=True):
    """A row of `crl`. `data` is the CRL in DER."""

    number: int
    this_update: datetime
    next_update: datetime
    entries: int
    data: bytes


class ShardEntry(msgspec.Struct, frozen=True):
    """A revoked or orphaned certificate of a shard."""

    serial: str
    revoked_at: datetime | None
    reason: int
    not_after: datetime


class ShardView(msgspec.Struct, frozen=True):
    """A shard, its stored CRLs (newest first) and its revoked certificates, read in one consistent state."""

    shard: CheckedShard
    crls: tuple[CheckedCrl, ...]
    entries: tuple[ShardEntry, ...]


class Tally(msgspec.Struct, frozen=True):
    """The number of an authority's certificates of a profile in a state. `valid` of them have not expired."""

    authority: str
    profile: str
    state: str
    count: int
    valid: int


_RECORD = Mapper(
    CheckedRecord,
    Certificate,
    closed_up_to=Coalesce(
        value_of(Closing.select(Closing.closed_up_to).where(Closing.node == Certificate.node)), literal(0)
    ),
    closed_alone=value_of(
        Generation.select(Count()).where(
            Generation.node == Certificate.node,
            Generation.generation == Certificate.generation,
            Generation.closed_at.is_not_null(),
        )
    ),
    # Piccolo cannot join two texts.
    has_event=value_of(
        EventObject.select(Count()).where(
            EventObject.subject == sql("{} || {}", literal(f"{SERVICE_CERTIFICATE.noun}/"), Certificate.serial)
        )
    ),
)
_SHARD = Mapper(
    CheckedShard,
    CrlShard,
    certificates=value_of(Certificate.select(Count()).where(Certificate.shard == CrlShard.id)),
)
_CRL = Mapper(CheckedCrl, Crl)
_ENTRY = Mapper(ShardEntry, Certificate)
_TALLY_ROW = Mapper(
    Tally,
    Certificate,
    count=Count(),
    valid=Sum(Case(When(Certificate.not_after > param("now"), then=literal(1)), default=literal(0))),
)

_TALLIED = (Certificate.authority, Certificate.profile, Certificate.state)
_TALLY = compiled(_TALLY_ROW.select().group_by(*_TALLIED).order_by(*_TALLIED).limit(1000))
# Piccolo has no alias for a table. A subquery needs one to find other rows of the same table.
_IS_NOT_REPLACED = WhereRaw(
    "{}",
    sql(
        "NOT EXISTS (SELECT 1 FROM certificate n WHERE n.node = {} AND n.service = {} AND n.generation = {} "
        "AND n.profile = {} AND n.state = 'issued' AND n.authority <> {} AND n.recorded_at > {})",
        Certificate.node,
        Certificate.service,
        Certificate.generation,
        Certificate.profile,
        Certificate.authority,
        Certificate.recorded_at,
    ),
)
"""Condition: no other authority has issued a newer certificate of the same profile for the same subject."""
_DEPENDENTS = compiled(
    Certificate.select(Count(alias="n")).where(
        Certificate.authority == param("authority"),
        Certificate.state == "issued",
        Certificate.not_after > param("now"),
        (Certificate.node == "") | GENERATION_NOT_CLOSED,
        (Certificate.profile == "session") | (Certificate.profile.is_in(["device", "service"]) & _IS_NOT_REPLACED),
    )
)
_COUNT = compiled(Certificate.select(Count(alias="n")))
_RECORDS = compiled(_RECORD.select().where(Certificate.serial > param("after")).order_by(Certificate.serial).limit(500))
_KNOWN = compiled(Certificate.select(Certificate.state).where(Certificate.serial == param("serial")))

_SHARDS = compiled(CrlShard.select(CrlShard.id).where(CrlShard.id > param("after")).order_by(CrlShard.id).limit(500))
_ONE_SHARD = compiled(_SHARD.select().where(CrlShard.id == param("id")))
_CRLS = compiled(_CRL.select().where(Crl.shard == param("shard")).order_by(Crl.number, ascending=False).limit(5))
_ENTRIES = compiled(
    _ENTRY.select()
    .where(Certificate.shard == param("shard"), Certificate.state.is_in(["revoked", "orphaned"]))
    .order_by(Certificate.serial)
    .limit(5001)
)
_OLDEST = compiled(
    Certificate.select(Certificate.recorded_at)
    .where(Certificate.shard == param("shard"))
    .order_by(Certificate.recorded_at)
    .limit(1)
)


class CheckerStore:
    """The checker's queries."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def count(self) -> int:
        """Return the number of records."""
        (row,) = await self._engine.browse(_COUNT)
        return int(row["n"])

    async def records(self, after: str) -> list[CheckedRecord]:
        """Return the next page of records after the serial `after`; empty at the end."""
        return [_RECORD.read(row) for row in await self._engine.fetch(_RECORDS, after=after)]

    async def shards(self, after: str) -> list[str]:
        """Return the next page of shard ids after `after`; empty at the end."""
        return [str(row["id"]) for row in await self._engine.fetch(_SHARDS, after=after)]

    async def view(self, identifier: str) -> ShardView | None:
        """Return a shard with its CRLs and entries in one consistent state.

        Reads again, up to `VIEW_TRIES` times, if the shard changed between the queries. There is no lock, because a
        lock would make a running issuer wait. Returns None if the shard changed each time or does not exist.
        """
        for _ in range(VIEW_TRIES):
            before = await self._engine.fetch_one(_ONE_SHARD, id=identifier)
            crls = await self._engine.fetch(_CRLS, shard=identifier)
            entries = await self._engine.fetch(_ENTRIES, shard=identifier)
            after = await self._engine.fetch_one(_ONE_SHARD, id=identifier)
            if before is not None and before == after:
                return ShardView(
                    _SHARD.read(before),
                    tuple(_CRL.read(row) for row in crls),
                    tuple(_ENTRY.read(row) for row in entries),
                )
        return None

    async def oldest(self, shard: str) -> datetime | None:
        """Return when the first certificate of a shard was recorded; None if there is none."""
        row = await self._engine.fetch_one(_OLDEST, shard=shard)
        return None if row is None else msgspec.convert(row["recorded_at"], datetime)

    async def tally(self, now: datetime) -> tuple[Tally, ...]:
        """Count certificates by authority, profile and state."""
        return tuple(_TALLY_ROW.read(row) for row in await self._engine.browse(_TALLY, now=now))

    async def dependents(self, authority: str, now: datetime) -> int:
        """Count the unexpired certificates of an authority that are still in use.

        These are sessions, and device and service certificates without a newer certificate from another authority.
        Closed generations do not count.
        """
        (row,) = await self._engine.browse(_DEPENDENTS, authority=authority, now=now)
        return int(row["n"])

    async def state(self, serial: str) -> str | None:
        """Return the state of the record of a serial (hex); None if there is no record."""
        row = await self._engine.fetch_one(_KNOWN, serial=serial)
        return None if row is None else str(row["state"])
