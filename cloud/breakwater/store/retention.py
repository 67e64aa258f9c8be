"""Store: records of sessions and responders are deleted long after their certificates ended. Nothing else is deleted.

A node has two sessions a day, so their records outgrow all others; no CRL and no OCSP answer ever names one. Rule: a
record is never deleted while it says that a key must not come back.
"""

from datetime import datetime

import msgspec

from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.storage import ServiceEngine, compiled, param

ROWS_LOOKED_AT = 500
"""In one step: a few milliseconds of the event loop, on SQLite, and one short statement."""


class Step(msgspec.Struct, frozen=True):
    """How far a walk over all records has come (`cursor` is empty at its end), and what this step deleted."""

    cursor: str
    deleted: int


# The walk goes by the key: a search by date would read the whole table whenever nothing is left to delete.
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
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def step(self, cursor: str, before: datetime) -> Step:
        """Look at the next records after `cursor`, and delete what may go and ended before that time."""
        page = await self._engine.fetch(_PAGE, after=cursor, limit=ROWS_LOOKED_AT)
        if not page:
            return Step("", 0)
        last = str(page[-1]["serial"])
        deleted = 0
        if any(row["profile"] in ("session", "responder") and row["not_after"] < before for row in page):
            deleted = len(await self._engine.fetch(_DELETE, after=cursor, last=last, before=before))
        return Step(last if len(page) == ROWS_LOOKED_AT else "", deleted)
