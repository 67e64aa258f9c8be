"""Store: the audit, one row for each decision or refusal.

Rule: The row of a decision is written in the transaction of the decision.
"""

from datetime import datetime

import msgspec

from cloud.audit import AuditEntry
from cloud.breakwater.tables import Audit
from cloud.storage import ServiceEngine, compiled, insert_into, param

CALLER_CHARS_MAX = 128
OBJECT_CHARS_MAX = 128
DETAIL_CHARS_MAX = 1000
"""Longer texts are cut. PostgreSQL refuses a caller or an object that is longer than its column."""


ROWS_LOOKED_AT = 500
"""Entries in one step of the purge. With SQLite a step blocks the event loop for a few milliseconds."""


class AuditRow(AuditEntry, frozen=True, kw_only=True):
    """An entry of the issuer's audit. `node` and `generation` are set if it is about a node.

    The column of the actor is called `caller`.
    """

    node: str = ""
    generation: int = 0
    detail: str = ""


_ADD = compiled(insert_into(Audit))
_PAGE = compiled(
    Audit.select(Audit.id, Audit.at).where(Audit.id > param("after")).order_by(Audit.id), limit=param("limit")
)
_DELETE = compiled(
    Audit.delete()
    .where(Audit.id > param("after"), Audit.id <= param("last"), Audit.outcome == "refused", Audit.at < param("before"))
    .returning(Audit.id)
)


class AuditStore:
    """The audit: entries are added, and old entries of refusals are deleted. Entries of decisions stay."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def add(self, entry: AuditRow) -> None:
        """Write an entry, in the current transaction if there is one."""
        values = msgspec.structs.asdict(entry)
        values["caller"] = values.pop("actor")[:CALLER_CHARS_MAX]
        values["object"] = entry.object[:OBJECT_CHARS_MAX]
        values["detail"] = entry.detail[:DETAIL_CHARS_MAX]
        await self._engine.fetch(_ADD, **values)

    async def purge(self, cursor: str, before: datetime) -> str:
        """Read the entries after `cursor` in order of their id, and delete refusals from before `before`.

        Ids rise with time. Returns the cursor of the next step: the last entry that is older than `before`.
        """
        page = await self._engine.fetch(_PAGE, after=cursor, limit=ROWS_LOOKED_AT)
        old = [str(row["id"]) for row in page if row["at"] < before]
        if not old:
            return cursor
        await self._engine.fetch(_DELETE, after=cursor, last=old[-1], before=before)
        return old[-1]
