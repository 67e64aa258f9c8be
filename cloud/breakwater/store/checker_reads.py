"""What the checker reads: everything, in pages by key. It changes nothing."""

from datetime import datetime
from typing import TypeVar

import msgspec

from cloud.storage import ServiceEngine, Statement

T = TypeVar("T")

VIEW_TRIES = 20


class CheckedRecord(msgspec.Struct, frozen=True):
    """A row of `certificate`. `closed_up_to` and `closed_alone` (0 or 1) say whether its generation is closed."""

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
    feed: int
    profile_version: int
    closed_up_to: int
    closed_alone: int


class CheckedShard(msgspec.Struct, frozen=True):
    """A row of `shard`, and how many certificates name it."""

    id: str
    authority: str
    reserved: int
    revision: int
    published_revision: int
    crl_number: int
    published_number: int
    certificates: int


class CheckedCrl(msgspec.Struct, frozen=True):
    """A stored CRL."""

    number: int
    this_update: datetime
    next_update: datetime
    entries: int
    data: bytes


class ShardEntry(msgspec.Struct, frozen=True):
    """A certificate that a shard's CRL has to name, or may stop naming."""

    serial: str
    revoked_at: datetime | None
    reason: int
    not_after: datetime


class _Oldest(msgspec.Struct, frozen=True):
    recorded_at: datetime


class ShardView(msgspec.Struct, frozen=True):
    """A shard, its stored CRLs (the newest first) and what is revoked in it, all of one moment."""

    shard: CheckedShard
    crls: tuple[CheckedCrl, ...]
    entries: tuple[ShardEntry, ...]


class Tally(msgspec.Struct, frozen=True):
    """How many certificates of a kind there are in a state; `valid` of them have not expired."""

    authority: str
    profile: str
    state: str
    count: int
    valid: int


_TALLY = Statement(
    "SELECT authority, profile, state, COUNT(*) AS count, "
    "SUM(CASE WHEN not_after > {} THEN 1 ELSE 0 END) AS valid FROM certificate "
    "GROUP BY authority, profile, state ORDER BY authority, profile, state LIMIT 1000"
)
_DEPENDENTS = Statement(
    "SELECT COUNT(*) AS n FROM certificate c LEFT JOIN closing l ON l.node = c.node "
    "LEFT JOIN generation g ON g.node = c.node AND g.generation = c.generation "
    "WHERE c.authority = {} AND c.state = 'issued' AND c.not_after > {} "
    "AND (c.node = '' OR (c.generation > COALESCE(l.closed_up_to, 0) AND g.closed_at IS NULL)) "
    "AND (c.profile = 'session' OR (c.profile IN ('device', 'service') AND NOT EXISTS "
    "(SELECT 1 FROM certificate n WHERE n.node = c.node AND n.service = c.service AND n.generation = c.generation "
    "AND n.profile = c.profile AND n.state = 'issued' AND n.authority <> c.authority "
    "AND n.recorded_at > c.recorded_at)))"
)
_RECORDS = Statement(
    "SELECT c.serial, c.request_key, c.profile, c.state, c.tenant, c.node, c.generation, c.service, c.spki_sha256, "
    "c.tbs, c.certificate, c.not_before, c.not_after, c.recorded_at, c.revoked_at, c.authority, c.shard, c.reason, "
    "c.feed, c.profile_version, COALESCE(l.closed_up_to, 0) AS closed_up_to, "
    "CASE WHEN g.closed_at IS NULL THEN 0 ELSE 1 END AS closed_alone FROM certificate c "
    "LEFT JOIN closing l ON l.node = c.node "
    "LEFT JOIN generation g ON g.node = c.node AND g.generation = c.generation "
    "WHERE c.serial > {} ORDER BY c.serial LIMIT 500"
)
_COUNT = Statement("SELECT COUNT(*) AS n FROM certificate")
_SHARDS = Statement("SELECT id FROM shard WHERE id > {} ORDER BY id LIMIT 500")
_SHARD = Statement(
    "SELECT s.id, s.authority, s.reserved, s.revision, s.published_revision, s.crl_number, "
    "s.published_number, (SELECT COUNT(*) FROM certificate c WHERE c.shard = s.id) AS certificates "
    "FROM shard s WHERE s.id = {}"
)
_CRLS = Statement(
    "SELECT number, this_update, next_update, entries, data FROM crl WHERE shard = {} ORDER BY number DESC LIMIT 5"
)
_ENTRIES = Statement(
    "SELECT serial, revoked_at, reason, not_after FROM certificate WHERE shard = {} "
    "AND state IN ('revoked', 'orphaned') ORDER BY serial LIMIT 5001"
)
_OLDEST = Statement("SELECT recorded_at FROM certificate WHERE shard = {} ORDER BY recorded_at LIMIT 1")
_KNOWN = Statement("SELECT state FROM certificate WHERE serial = {}")


class CheckingStore:
    """The checker's queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def count(self) -> int:
        """How many records there are."""
        row = await self._engine.fetch_one(_COUNT)
        return 0 if row is None else int(row["n"])

    async def records(self, after: str) -> list[CheckedRecord]:
        """A page of records, by serial."""
        return _rows(await self._engine.fetch(_RECORDS, after), CheckedRecord)

    async def shards(self, after: str) -> list[str]:
        """A page of shards' ids."""
        return [str(row["id"]) for row in await self._engine.fetch(_SHARDS, after)]

    async def view(self, identifier: str) -> ShardView | None:
        """A shard and what belongs to it, read again until no publication or revocation fell in between.

        A lock would make a running issuer wait. None when it never stood still, or there is none of this id.
        """
        for _ in range(VIEW_TRIES):
            before = await self._engine.fetch_one(_SHARD, identifier)
            crls = _rows(await self._engine.fetch(_CRLS, identifier), CheckedCrl)
            entries = _rows(await self._engine.fetch(_ENTRIES, identifier), ShardEntry)
            after = await self._engine.fetch_one(_SHARD, identifier)
            if before is not None and before == after:
                return ShardView(msgspec.convert(before, CheckedShard), tuple(crls), tuple(entries))
        return None

    async def oldest(self, shard: str) -> datetime | None:
        """When the first certificate of a shard was recorded; None when it has none."""
        found = _rows(await self._engine.fetch(_OLDEST, shard), _Oldest)
        return found[0].recorded_at if found else None

    async def tally(self, now: datetime) -> tuple[Tally, ...]:
        """Certificates by authority, profile and state."""
        return tuple(_rows(await self._engine.fetch(_TALLY, now), Tally))

    async def dependents(self, authority: str, now: datetime) -> int:
        """Certificates of an authority that somebody still works by: sessions, and what nothing newer replaced."""
        row = await self._engine.fetch_one(_DEPENDENTS, authority, now)
        return 0 if row is None else int(row["n"])

    async def state(self, serial: str) -> str | None:
        """The state of a record; None when there is none."""
        row = await self._engine.fetch_one(_KNOWN, serial)
        return None if row is None else str(row["state"])


def _rows(rows: list[dict[str, object]], kind: type[T]) -> list[T]:
    return [msgspec.convert(row, kind) for row in rows]
