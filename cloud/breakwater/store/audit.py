"""Store: the audit, one row for each decision or refusal.

Rule: The row of a decision is written in the transaction of the decision.
"""

import msgspec

from cloud.audit import AuditEntry
from cloud.breakwater.tables import Audit
from cloud.storage import ServiceEngine, compiled, insert_into

CALLER_CHARS_MAX = 128
OBJECT_CHARS_MAX = 128
DETAIL_CHARS_MAX = 1000
"""Longer texts are cut. PostgreSQL refuses a caller or an object that is longer than its column."""


class AuditRow(AuditEntry, frozen=True, kw_only=True):
    """An entry of the issuer's audit. `node` and `generation` are set if it is about a node.

    The column of the actor is called `caller`.
    """

    node: str = ""
    generation: int = 0
    detail: str = ""


_ADD = compiled(insert_into(Audit))


class AuditStore:
    """The only query of the audit: adding an entry."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def add(self, entry: AuditRow) -> None:
        """Write an entry, in the current transaction if there is one."""
        values = msgspec.structs.asdict(entry)
        values["caller"] = values.pop("actor")[:CALLER_CHARS_MAX]
        values["object"] = entry.object[:OBJECT_CHARS_MAX]
        values["detail"] = entry.detail[:DETAIL_CHARS_MAX]
        await self._engine.fetch(_ADD, **values)
