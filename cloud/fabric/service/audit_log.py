"""Use case: write Fabric's audit. The caller writes an entry in the transaction of the change that it records."""

from cloud.audit import AuditEntries, Outcome
from cloud.fabric.store.audit import AuditStore
from cloud.fabric.store.rows import AuditRow
from cloud.http.guard import Operator

ANONYMOUS = "anonymous"
"""The actor of an entry when the caller has no identity."""
DETAIL_CHARS_MAX = 200
"""Longer values of `detail` are cut."""


class AuditLog:
    """Makes audit entries and stores them."""

    def __init__(self, *, entries: AuditEntries[AuditRow], store: AuditStore) -> None:
        self._entries = entries
        self._store = store

    async def write(
        self, actor: str, action: str, subject: str, tenant: str, outcome: Outcome = "done", **detail: object
    ) -> None:
        """Add one entry in the caller's transaction.

        `detail` holds ids, numbers and reasons, never secrets or endorsement keys. Empty values are left out.
        """
        texts = {name: str(value)[:DETAIL_CHARS_MAX] for name, value in detail.items() if value not in ("", None)}
        entry = self._entries.make(actor, action, subject, tenant=tenant, outcome=outcome, detail=texts)
        await self._store.insert(entry)


def operator_actor(operator: Operator) -> str:
    """The actor of an entry about an operator's action."""
    return f"operator:{operator.id}"
