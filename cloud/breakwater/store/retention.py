"""Store: deletes records of sessions and responders long after their certificates ended. It deletes nothing else.

A node has at least two sessions a day, so records of sessions outnumber all others. No CRL and no OCSP answer contains
a session or a responder. Rule: A revoked record stays, because it blocks a new certificate for its key.
"""

from datetime import datetime

import msgspec

from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.storage import ServiceEngine, compiled, param

ROWS_LOOKED_AT = 500
"""Records in one step. With SQLite a step blocks the event loop for a few milliseconds."""


class Step(msgspec.Struct, frozen=True):
    """The result of one step: the cursor of the next step (empty at the end), and the number of deleted records."""

    cursor: str
    deleted: int


# Pages are in order of the key. A search by date would read the whole table when there is nothing to delete.
_PAGE = compiled(
    Certificate.select(Certificate.serial, Certificate.profile, Certificate.not_after)
    .where(Certificate.serial > param("after"))
    .order_by(Certificate.serial),
    limit=param("limit"),
)
_DELETE = compiled(
    Certificate.delete()
    .where(
        Certificate.serial > param("after"),
        Certificate.serial <= param("last"),
        Certificate.profile.is_in(["session", "responder"]),
        Certificate.state.is_in(["issued", "orphaned"]),
        Certificate.not_after < param("before"),
    )
    .returning(Certificate.serial)
)


class RetentionStore:
    """The queries that delete old records."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def step(self, cursor: str, before: datetime) -> Step:
        """Read the next records after `cursor`. Delete its sessions and responders that ended before `before`."""
        page = await self._engine.fetch(_PAGE, after=cursor, limit=ROWS_LOOKED_AT)
        if not page:
            return Step("", 0)
        last = str(page[-1]["serial"])
        deleted = 0
        if any(row["profile"] in ("session", "responder") and row["not_after"] < before for row in page):
            deleted = len(await self._engine.fetch(_DELETE, after=cursor, last=last, before=before))
        return Step(last if len(page) == ROWS_LOOKED_AT else "", deleted)
