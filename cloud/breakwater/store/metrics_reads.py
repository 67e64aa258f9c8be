"""Store: numbers for the metrics. Every query is bounded, so that a scrape does not slow down the database."""

from datetime import datetime

from cloud.breakwater.tables import CrlShard, IssuedCertificate
from cloud.storage import ServiceEngine, compiled, param, sql

COUNTED_MAX = 10_000
STATES = ("recorded", "issued", "revoked", "orphaned")

# Piccolo has no FROM (subquery). The subquery selects the column of its condition, so that the index is enough.
_STATE = compiled(
    sql(
        "SELECT COUNT(*) AS n FROM ({}) AS few",
        IssuedCertificate.select(IssuedCertificate.state)
        .where(IssuedCertificate.state == param("state"))
        .limit(COUNTED_MAX),
    )
)
_OLDEST = compiled(
    CrlShard.select(CrlShard.next_publish_at)
    .where(CrlShard.authority == param("authority"), CrlShard.published_number > 0)
    .order_by(CrlShard.next_publish_at)
    .limit(1)
)


class MetricsStore:
    """The queries for the metrics."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def states(self) -> dict[str, int]:
        """Return the number of records in each state. Counting stops at `COUNTED_MAX`."""
        found = {}
        for state in STATES:
            (row,) = await self._engine.fetch(_STATE, state=state)
            found[state] = int(row["n"])
        return found

    async def next_publication(self, authority: str) -> datetime | None:
        """Return when the oldest published CRL of an authority is to be replaced; None if there is no CRL."""
        row = await self._engine.fetch_one(_OLDEST, authority=authority)
        return None if row is None else row["next_publish_at"]
