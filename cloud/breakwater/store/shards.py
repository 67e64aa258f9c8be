"""Store: CRL shards and their published CRLs.

Rules: A place is durably reserved before it is used, so a shard never has more certificates than reserved places. One
transaction locks the shard's row, draws a CRL number and reads the revocations. So a CRL with a higher number never
lacks a revocation. A CRL is stored only over a lower number.
"""

from datetime import datetime

import msgspec
from piccolo.query.functions import Case, Count, When

from cloud.breakwater.tables import Authority, Crl, CrlShard, IssuedCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param, params, value_of

SHARDS_MAX = 100_000
"""Bounds a query for all shards; they hold five hundred million certificates."""
CRLS_KEPT = 3
"""The published CRL and the two before it. The checker compares consecutive CRLs."""


class Shard(msgspec.Struct, frozen=True):
    """A shard of an authority.

    `revision` rises with each revocation, and `published_revision` is the revision in the published CRL. `ended` is 1
    if the authority is revoked and signs nothing any more.
    """

    id: str
    authority: str
    revision: int
    published_revision: int
    published_number: int
    next_publish_at: datetime | None
    ended: int = 0

    def due(self, now: datetime, latest: datetime) -> bool:
        """Whether a new CRL is due: after a revocation, or when its planned time has come.

        A plan after `latest` was made by a clock that was ahead. Its CRL begins in the future and no verifier accepts
        it, so a new CRL is due then too.
        """
        if self.ended:
            return False
        planned = self.next_publish_at is not None and now < self.next_publish_at <= latest
        return not planned or self.revision > self.published_revision


class RevokedRow(msgspec.Struct, frozen=True):
    """A revoked or orphaned certificate. `serial` is hex, `reason` the CRLReason."""

    serial: str
    revoked_at: datetime | None
    reason: int


class Draw(msgspec.Struct, frozen=True):
    """The content of a CRL to be made: its number, its entries, and the highest number published so far."""

    shard: str
    authority: str
    number: int
    revision: int
    published_number: int
    revoked: tuple[RevokedRow, ...]


class PublishedCrl(msgspec.Struct, frozen=True):
    """A published CRL. `data` is its DER."""

    shard: str
    number: int
    this_update: datetime
    next_update: datetime
    entries: int
    data: bytes


_REVOKED_AUTHORITY = Authority.state == "revoked"
_ENDED = value_of(Authority.select(Count()).where(Authority.id == CrlShard.authority, _REVOKED_AUTHORITY))
_SHARD = Mapper(Shard, CrlShard, ended=_ENDED)
_REVOKED_ROW = Mapper(RevokedRow, IssuedCertificate)
_CRL = Mapper(PublishedCrl, Crl)

_NEWEST = compiled(
    CrlShard.select(CrlShard.id, CrlShard.number, CrlShard.reserved)
    .where(CrlShard.authority == param("authority"))
    .order_by(CrlShard.number, ascending=False)
    .limit(1)
)
_RESERVE = compiled(
    CrlShard.update({CrlShard.reserved: param("places") + CrlShard.reserved}).where(CrlShard.id == param("id"))
)
_ADD = compiled(
    insert_into(
        CrlShard,
        {
            CrlShard.revision: 0,
            CrlShard.published_revision: -1,
            CrlShard.crl_number: 0,
            CrlShard.published_number: 0,
            CrlShard.next_publish_at: None,
        },
    )
)
_ONE = compiled(_SHARD.select().where(CrlShard.id == param("id")))
_ALL = compiled(_SHARD.select().order_by(CrlShard.id).limit(SHARDS_MAX))
_DUE = compiled(
    CrlShard.select(CrlShard.id)
    .where(
        (CrlShard.revision > CrlShard.published_revision)
        | (CrlShard.next_publish_at <= param("now"))
        | (CrlShard.next_publish_at > param("latest")),
        CrlShard.authority.not_in(Authority.select(Authority.id).where(_REVOKED_AUTHORITY)),
    )
    .order_by(CrlShard.next_publish_at),
    limit=param("limit"),
)

_DRAW = compiled(
    CrlShard.update(
        {
            CrlShard.crl_number: Case(
                When(CrlShard.crl_number + 1 > param("unix"), then=CrlShard.crl_number + 1), default=param("unix")
            )
        }
    )
    .where(CrlShard.id == param("id"))
    .returning(CrlShard.authority, CrlShard.crl_number, CrlShard.revision, CrlShard.published_number)
)
_THIS_UPDATE = compiled(Crl.select(Crl.this_update).where(Crl.id == param("id")))
_IS_REVOKED_IN_SHARD = (IssuedCertificate.shard == param("shard")) & IssuedCertificate.state.is_in(
    ["revoked", "orphaned"]
)
_REVOKED_EVER = compiled(
    _REVOKED_ROW.select().where(_IS_REVOKED_IN_SHARD).order_by(IssuedCertificate.serial), limit=param("limit")
)
_REVOKED = compiled(
    _REVOKED_ROW.select()
    .where(
        _IS_REVOKED_IN_SHARD,
        (IssuedCertificate.not_after >= param("since")) | (IssuedCertificate.revoked_at >= param("since")),
    )
    .order_by(IssuedCertificate.serial),
    limit=param("limit"),
)

_PUBLISH = compiled(
    CrlShard.update(
        {
            CrlShard.published_number: param("number"),
            CrlShard.published_revision: param("revision"),
            **params(CrlShard.next_publish_at),
        }
    )
    .where(CrlShard.id == param("id"), CrlShard.published_number < param("number"))
    .returning(CrlShard.id)
)
_ADD_CRL = compiled(insert_into(Crl))
_NEWEST_CRLS = (
    Crl.select(Crl.number).where(Crl.shard == param("shard")).order_by(Crl.number, ascending=False).limit(CRLS_KEPT)
)
_DROP_OLD = compiled(Crl.delete().where(Crl.shard == param("shard"), Crl.number.not_in(_NEWEST_CRLS)))
_ONE_CRL = compiled(_CRL.select().where(Crl.id == param("id")))
_KEPT = compiled(
    _CRL.select().where(Crl.shard == param("shard")).order_by(Crl.number, ascending=False).limit(CRLS_KEPT)
)


def shard_id(authority: str, number: int) -> str:
    """Return the id of a shard."""
    return f"{authority}.{number}"


def crl_id(shard: str, number: int) -> str:
    """Return the key of a published CRL's row."""
    return f"{shard}:{number}"


class ShardStore:
    """The queries of shards and CRLs."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def reserve(self, authority: str, places: int, places_max: int) -> str:
        """Reserve `places` in the authority's newest shard, or in a new shard if they do not fit. Return its id."""
        async with self._engine.transaction(f"shards {authority}"):
            newest = await self._engine.fetch_one(_NEWEST, authority=authority)
            if newest is not None and newest["reserved"] + places <= places_max:
                await self._engine.fetch(_RESERVE, id=newest["id"], places=places)
                return str(newest["id"])
            number = 1 if newest is None else int(newest["number"]) + 1
            identifier = shard_id(authority, number)
            await self._engine.fetch(_ADD, id=identifier, authority=authority, number=number, reserved=places)
            return identifier

    async def find(self, identifier: str) -> Shard | None:
        """Return a shard; None if there is none with this id."""
        return _SHARD.read_one(await self._engine.fetch_one(_ONE, id=identifier))

    async def all(self) -> list[Shard]:
        """Return every shard, ordered by id."""
        return [_SHARD.read(row) for row in await self._engine.fetch(_ALL)]

    async def due(self, now: datetime, latest: datetime, count_max: int) -> list[str]:
        """Return the ids of due shards, at most `count_max`. `Shard.due` has the same rule."""
        return [str(row["id"]) for row in await self._engine.fetch(_DUE, now=now, latest=latest, limit=count_max)]

    async def draw(self, identifier: str, now: datetime, entries_max: int) -> Draw | None:
        """Draw the next CRL number and read the entries of that CRL. Return None for an unknown shard.

        The number is max(last number + 1, Unix time in milliseconds). So a number that is drawn after the database was
        lost is higher than the numbers before. With milliseconds, frequent CRLs do not let numbers run ahead of time.

        The update of the number comes first. It locks the shard's row, so all committed revocations are read and later
        ones wait. An expired certificate is left out once a CRL that was issued after its end contained it (RFC 5280
        section 3.3). A CRL that a fast clock dated after `now` does not count for this.
        """
        unix = int(now.timestamp() * 1000)
        async with self._engine.transaction(f"shard {identifier}"):
            row = await self._engine.fetch_one(_DRAW, id=identifier, unix=unix)
            if row is None:
                return None
            before = await self._engine.fetch_one(_THIS_UPDATE, id=crl_id(identifier, row["published_number"]))
            of_shard = {"shard": identifier, "limit": entries_max + 1}
            if before is None:
                found = await self._engine.fetch(_REVOKED_EVER, **of_shard)
            else:
                found = await self._engine.fetch(_REVOKED, **of_shard, since=min(before["this_update"], now))
        return Draw(
            shard=identifier,
            authority=str(row["authority"]),
            number=int(row["crl_number"]),
            revision=int(row["revision"]),
            published_number=int(row["published_number"]),
            revoked=tuple(_REVOKED_ROW.read(each) for each in found),
        )

    async def publish(self, crl: PublishedCrl, revision: int, next_publish_at: datetime) -> bool:
        """Store a CRL over a lower number. Return False if an equal or higher number was published meanwhile."""
        async with self._engine.transaction(f"shard {crl.shard}"):
            if not await self._engine.fetch(
                _PUBLISH, id=crl.shard, number=crl.number, revision=revision, next_publish_at=next_publish_at
            ):
                return False
            await self._engine.fetch(_ADD_CRL, id=crl_id(crl.shard, crl.number), **_CRL.values(crl))
            await self._engine.fetch(_DROP_OLD, shard=crl.shard)
            return True

    async def published(self, shard: Shard) -> PublishedCrl | None:
        """Return the published CRL of a shard; None before the first."""
        identifier = crl_id(shard.id, shard.published_number)
        return _CRL.read_one(await self._engine.fetch_one(_ONE_CRL, id=identifier))

    async def kept(self, identifier: str) -> list[PublishedCrl]:
        """Return the stored CRLs of a shard, newest first."""
        return [_CRL.read(row) for row in await self._engine.fetch(_KEPT, shard=identifier)]
