"""Store: CRL shards and the CRLs published for them.

Rules: a place is reserved durably before it is used, and a shard never has more certificates than places; a CRL number
is drawn and what is revoked is read in one transaction that holds the shard's row, so that a higher number never shows
less; a CRL is stored only over a lower number.
"""

from datetime import datetime

import msgspec
from piccolo.query.functions import Case, Count, When

from cloud.breakwater.tables import Authority, Crl, CrlShard, IssuedCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param, params, value_of

SHARDS_MAX = 100_000
"""Bounds a list of shards: five hundred million certificates."""
CRLS_KEPT = 3
"""The published one and two before it, which the check of continuity compares it with."""


class Shard(msgspec.Struct, frozen=True):
    """A shard: whose it is, what was revoked in it (`revision`) and what of that is published.

    `ended`: its authority is revoked and signs nothing any more.
    """

    id: str
    authority: str
    revision: int
    published_revision: int
    published_number: int
    next_publish_at: datetime | None
    ended: int = 0

    def due(self, now: datetime, latest: datetime) -> bool:
        """Whether a new CRL is wanted: something was revoked since the last, or it is time.

        It is time also when the next one is planned after `latest`, as only a clock that ran ahead plans: what it
        signed begins in the future, and no verifier takes it yet.
        """
        if self.ended:
            return False
        planned = self.next_publish_at is not None and now < self.next_publish_at <= latest
        return not planned or self.revision > self.published_revision


class RevokedRow(msgspec.Struct, frozen=True):
    """A certificate that is revoked or orphaned. `serial` is hex, `reason` the CRLReason."""

    serial: str
    revoked_at: datetime | None
    reason: int


class Draw(msgspec.Struct, frozen=True):
    """A CRL to be made: its number, what it has to show, and the highest number published before it."""

    shard: str
    authority: str
    number: int
    revision: int
    published_number: int
    revoked: tuple[RevokedRow, ...]


class PublishedCrl(msgspec.Struct, frozen=True):
    """A CRL as it was published. `data` is its DER."""

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
    """The one spelling of a shard's id."""
    return f"{authority}.{number}"


def crl_id(shard: str, number: int) -> str:
    """The key of a published CRL's row."""
    return f"{shard}:{number}"


class ShardStore:
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def reserve(self, authority: str, places: int, places_max: int) -> str:
        """Take `places` of the authority's newest shard, or of a new one when they do not fit. Returns its id."""
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
        """One shard."""
        return _SHARD.read_one(await self._engine.fetch_one(_ONE, id=identifier))

    async def all(self) -> list[Shard]:
        """Every shard, by id."""
        return [_SHARD.read(row) for row in await self._engine.fetch(_ALL)]

    async def due(self, now: datetime, latest: datetime, count_max: int) -> list[str]:
        """Shards that want a new CRL, as `Shard.due` judges each."""
        return [str(row["id"]) for row in await self._engine.fetch(_DUE, now=now, latest=latest, limit=count_max)]

    async def draw(self, identifier: str, now: datetime, entries_max: int) -> Draw | None:
        """Draw the next CRL number, max(drawn + 1, unix time in ms), and read what that CRL has to show.

        Milliseconds, so that numbers do not run ahead of the clock, and one drawn after the database was lost is above
        those before.

        The update comes first: its lock on the row puts this behind every revocation in the shard that has committed
        and before every one that has not. A certificate that expired is left out once a CRL of after its end has
        shown it (RFC 5280 section 3.3); one of before `now`, for a list of a clock that ran ahead proves nothing.
        None for an unknown shard.
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
        """Store a CRL over a lower number; False if an equal or higher one was published meanwhile."""
        async with self._engine.transaction(f"shard {crl.shard}"):
            if not await self._engine.fetch(
                _PUBLISH, id=crl.shard, number=crl.number, revision=revision, next_publish_at=next_publish_at
            ):
                return False
            await self._engine.fetch(_ADD_CRL, id=crl_id(crl.shard, crl.number), **_CRL.values(crl))
            await self._engine.fetch(_DROP_OLD, shard=crl.shard)
            return True

    async def published(self, shard: Shard) -> PublishedCrl | None:
        """The CRL that is published for a shard; None before the first."""
        identifier = crl_id(shard.id, shard.published_number)
        return _CRL.read_one(await self._engine.fetch_one(_ONE_CRL, id=identifier))

    async def kept(self, identifier: str) -> list[PublishedCrl]:
        """The CRLs of a shard that are kept, newest first."""
        return [_CRL.read(row) for row in await self._engine.fetch(_KEPT, shard=identifier)]
