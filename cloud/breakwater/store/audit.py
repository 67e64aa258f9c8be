"""The audit: one row a decision or refusal. Rule: a decision's row is written in the decision's own transaction."""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.storage import ServiceEngine, Statement

CALLER_CHARS_MAX = 128
OBJECT_CHARS_MAX = 128
DETAIL_CHARS_MAX = 1000
"""A refusal's text names a check, not its input; PostgreSQL refuses what is longer than its column."""

Outcome = Literal["done", "refused"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `object` is what was decided on: a node, a serial, an authority, a path."""

    id: str
    at: datetime
    caller: str
    action: str
    tenant: str = ""
    node: str = ""
    generation: int = 0
    object: str = ""
    outcome: Outcome = "done"
    detail: str = ""


_ADD = Statement(
    "INSERT INTO audit (id, at, caller, action, tenant, node, generation, object, outcome, detail) "
    "VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}, {})"
)


class AuditStore:
    """The audit's one query."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def add(self, entry: AuditEntry) -> None:
        """Write a line, in the caller's transaction if there is one."""
        await self._engine.fetch(
            _ADD,
            entry.id,
            entry.at,
            entry.caller[:CALLER_CHARS_MAX],
            entry.action,
            entry.tenant,
            entry.node,
            entry.generation,
            entry.object[:OBJECT_CHARS_MAX],
            entry.outcome,
            entry.detail[:DETAIL_CHARS_MAX],
        )
