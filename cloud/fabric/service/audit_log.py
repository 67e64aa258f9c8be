"""Use case: the audit of Fabric. An entry is written in the transaction of what it is about."""

from cloud.audit import AuditEntries, Outcome
from cloud.fabric.store.audit import AuditStore
from cloud.fabric.store.rows import AuditRow
from cloud.http.guard import Operator

ANONYMOUS = "anonymous"
"""The actor of a caller without an identity."""
DETAIL_CHARS_MAX = 200


class AuditLog:
    """Makes audit entries and stores them."""

    def __init__(self, *, entries: AuditEntries[AuditRow], store: AuditStore) -> None:
        self._entries = entries
        self._store = store

    async def write(
        self, actor: str, action: str, subject: str, tenant: str, outcome: Outcome = "done", **detail: object
    ) -> None:
        """Add one entry, in the caller's transaction. `detail`: ids, numbers and reasons, never secrets or EKs."""
        texts = {name: str(value)[:DETAIL_CHARS_MAX] for name, value in detail.items() if value not in ("", None)}
        entry = self._entries.make(actor, action, subject, tenant=tenant, outcome=outcome, detail=texts)
        await self._store.insert(entry)


def operator_actor(operator: Operator) -> str:
    """The actor of what an operator does."""
    return f"operator:{operator.id}"
