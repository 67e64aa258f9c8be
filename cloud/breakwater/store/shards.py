"""Queries on CRL shards and on the CRLs published for them.

Rules kept here: a place is reserved durably before it is given away, and a shard never has more than its places; a
CRL number is drawn and what is revoked is read in one transaction that holds the shard's row, so that a higher number
never shows less; a CRL is stored only over a lower number.
"""

from datetime import datetime

import msgspec

from cloud.storage import ServiceEngine, Statement

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


_NEWEST = Statement("SELECT id, number, reserved FROM shard WHERE authority = {} ORDER BY number DESC LIMIT 1")
_RESERVE = Statement("UPDATE shard SET reserved = reserved + {} WHERE id = {} RETURNING id")
_ADD = Statement(
    "INSERT INTO shard (id, authority, number, reserved, revision, published_revision, crl_number, published_number) "
    "VALUES ({}, {}, {}, {}, 0, -1, 0, 0)"
)
_COLUMNS = (
    "id, authority, revision, published_revision, published_number, next_publish_at, "
    "(SELECT COUNT(*) FROM authority a WHERE a.id = shard.authority AND a.state = 'revoked') AS ended"
)
_SHARD = Statement(f"SELECT {_COLUMNS} FROM shard WHERE id = {{}}")  # noqa: S608  (column names)
_ALL = Statement(f"SELECT {_COLUMNS} FROM shard ORDER BY id LIMIT {SHARDS_MAX}")  # noqa: S608  (column names)
_DUE = Statement(
    "SELECT id FROM shard WHERE (revision > published_revision OR next_publish_at <= {} OR next_publish_at > {}) "
    "AND authority NOT IN (SELECT id FROM authority WHERE state = 'revoked') ORDER BY next_publish_at LIMIT {}"
)
_DRAW = Statement(
    "UPDATE shard SET crl_number = CASE WHEN crl_number + 1 > {} THEN crl_number + 1 ELSE {} END WHERE id = {} "
    "RETURNING authority, crl_number, revision, published_number"
)
_THIS_UPDATE = Statement("SELECT this_update FROM crl WHERE id = {}")
_REVOKED = Statement(
    "SELECT serial, revoked_at, reason FROM certificate WHERE shard = {} AND state IN ('revoked', 'orphaned') "
    "AND (not_after >= {} OR revoked_at >= {}) ORDER BY serial LIMIT {}"
)
_REVOKED_EVER = Statement(
    "SELECT serial, revoked_at, reason FROM certificate WHERE shard = {} AND state IN ('revoked', 'orphaned') "
    "ORDER BY serial LIMIT {}"
)
_PUBLISH = Statement(
    "UPDATE shard SET published_number = {}, published_revision = {}, next_publish_at = {} "
    "WHERE id = {} AND published_number < {} RETURNING id"
)
_ADD_CRL = Statement(
    "INSERT INTO crl (id, shard, number, this_update, next_update, entries, data) VALUES ({}, {}, {}, {}, {}, {}, {})"
)
_DROP_OLD = Statement(
    "DELETE FROM crl WHERE shard = {} AND number NOT IN "
    "(SELECT number FROM crl WHERE shard = {} ORDER BY number DESC LIMIT {})"
)
_CRL = Statement("SELECT shard, number, this_update, next_update, entries, data FROM crl WHERE id = {}")
_KEPT = Statement(
    "SELECT shard, number, this_update, next_update, entries, data FROM crl WHERE shard = {} ORDER BY number DESC LIMIT {}"
)


def shard_id(authority: str, number: int) -> str:
    """The one spelling of a shard's id."""
    return f"{authority}.{number}"


class ShardStore:
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def reserve(self, authority: str, places: int, places_max: int) -> str:
        """Take `places` of the authority's newest shard, or of a new one when they do not fit. Returns its id."""
        async with self._engine.transaction(f"shards {authority}"):
            newest = await self._engine.fetch_one(_NEWEST, authority)
            if newest is not None and newest["reserved"] + places <= places_max:
                await self._engine.fetch(_RESERVE, places, newest["id"])
                return str(newest["id"])
            number = 1 if newest is None else int(newest["number"]) + 1
            identifier = shard_id(authority, number)
            await self._engine.fetch(_ADD, identifier, authority, number, places)
            return identifier

    async def find(self, identifier: str) -> Shard | None:
        """One shard."""
        row = await self._engine.fetch_one(_SHARD, identifier)
        return None if row is None else msgspec.convert(row, Shard)

    async def all(self) -> list[Shard]:
        """Every shard, by id."""
        return [msgspec.convert(row, Shard) for row in await self._engine.fetch(_ALL)]

    async def due(self, now: datetime, latest: datetime, count_max: int) -> list[str]:
        """Shards that want a new CRL, as `Shard.due` judges each."""
        return [str(row["id"]) for row in await self._engine.fetch(_DUE, now, latest, count_max)]

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
            row = await self._engine.fetch_one(_DRAW, unix, unix, identifier)
            if row is None:
                return None
            before = await self._engine.fetch_one(_THIS_UPDATE, f"{identifier}:{row['published_number']}")
            if before is None:
                found = await self._engine.fetch(_REVOKED_EVER, identifier, entries_max + 1)
            else:
                since = min(before["this_update"], now)
                found = await self._engine.fetch(_REVOKED, identifier, since, since, entries_max + 1)
        return Draw(
            shard=identifier,
            authority=str(row["authority"]),
            number=int(row["crl_number"]),
            revision=int(row["revision"]),
            published_number=int(row["published_number"]),
            revoked=tuple(msgspec.convert(each, RevokedRow) for each in found),
        )

    async def publish(self, crl: PublishedCrl, revision: int, next_publish_at: datetime) -> bool:
        """Store a CRL over a lower number; False if an equal or higher one was published meanwhile."""
        async with self._engine.transaction(f"shard {crl.shard}"):
            if not await self._engine.fetch(_PUBLISH, crl.number, revision, next_publish_at, crl.shard, crl.number):
                return False
            await self._engine.fetch(
                _ADD_CRL,
                f"{crl.shard}:{crl.number}",
                crl.shard,
                crl.number,
                crl.this_update,
                crl.next_update,
                crl.entries,
                crl.data,
            )
            await self._engine.fetch(_DROP_OLD, crl.shard, crl.shard, CRLS_KEPT)
            return True

    async def published(self, shard: Shard) -> PublishedCrl | None:
        """The CRL that is published for a shard; None before the first."""
        row = await self._engine.fetch_one(_CRL, f"{shard.id}:{shard.published_number}")
        return None if row is None else msgspec.convert(row, PublishedCrl)

    async def kept(self, identifier: str) -> list[PublishedCrl]:
        """The CRLs of a shard that are kept, newest first."""
        return [msgspec.convert(row, PublishedCrl) for row in await self._engine.fetch(_KEPT, identifier, CRLS_KEPT)]
