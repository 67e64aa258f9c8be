"""The few numbers that only the database knows. Every query here is bounded: numbers must not slow what they count."""

from datetime import datetime

from cloud.storage import ServiceEngine, Statement

COUNTED_MAX = 10_000
STATES = ("recorded", "issued", "revoked", "orphaned")

_STATE = Statement("SELECT COUNT(*) AS n FROM (SELECT 1 FROM certificate WHERE state = {} LIMIT {}) AS few")
_OLDEST = Statement(
    "SELECT next_publish_at FROM shard WHERE authority = {} AND published_number > 0 ORDER BY next_publish_at LIMIT 1"
)


class MeasureStore:
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def states(self) -> dict[str, int]:
        """How many records are in each state, counted to `COUNTED_MAX`."""
        found = {}
        for state in STATES:
            (row,) = await self._engine.fetch(_STATE, state, COUNTED_MAX)
            found[state] = int(row["n"])
        return found

    async def next_publication(self, authority: str) -> datetime | None:
        """When the oldest published CRL of an authority is due to be replaced."""
        row = await self._engine.fetch_one(_OLDEST, authority)
        return None if row is None else row["next_publish_at"]
