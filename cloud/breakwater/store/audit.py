"""Store: the audit, one row a decision or refusal. Rule: a row is written in the transaction of its decision."""

import msgspec

from cloud.audit import AuditEntry
from cloud.breakwater.tables import Audit
from cloud.storage import ServiceEngine, compiled, insert_into

CALLER_CHARS_MAX = 128
OBJECT_CHARS_MAX = 128
DETAIL_CHARS_MAX = 1000
"""A refusal's text names a check, not its input; PostgreSQL refuses what is longer than its column."""


class AuditRow(AuditEntry, frozen=True, kw_only=True):
    """An entry of the issuer's audit; `node` and `generation` where it is about one. The table calls the actor caller."""

    node: str = ""
    generation: int = 0
    detail: str = ""


_ADD = compiled(insert_into(Audit))


class AuditStore:
    """The audit's one query."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def add(self, entry: AuditRow) -> None:
        """Write a line, in the caller's transaction if there is one."""
        values = msgspec.structs.asdict(entry)
        values["caller"] = values.pop("actor")[:CALLER_CHARS_MAX]
        values["object"] = entry.object[:OBJECT_CHARS_MAX]
        values["detail"] = entry.detail[:DETAIL_CHARS_MAX]
        await self._engine.fetch(_ADD, **values)
