"""Use case: store the values that sessions reported, many in one transaction.

A crash loses values of the last seconds. The next session of the node reports them again.
"""

import msgspec

from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.nodes import NodeStore, Seen
from cloud.fabric.store.rows import NodeRow
from protocol.faults import fault_point
from protocol.ids import NodeId, NodeSpiffeId, TenantId


class _ModeReport(msgspec.Struct, frozen=True):
    """The mode that a node's session reported, and the generation whose session it was."""

    tenant: TenantId
    generation: int
    development: bool


class SeenSessions:
    """The values that the last session of each generation reported, until they are stored."""

    def __init__(self, *, trust_domain: str, transaction: Transaction, audit: AuditLog, nodes: NodeStore) -> None:
        self._trust_domain = trust_domain
        self._transaction = transaction
        self._audit = audit
        self._nodes = nodes
        self._seen: dict[str, Seen] = {}
        self._modes: dict[NodeId, _ModeReport] = {}

    def __len__(self) -> int:
        """The number of generations whose session is not stored yet."""
        return len(self._seen)

    def note(self, generation: str, seen: Seen) -> None:
        """Keep the values of a session for the next `store`. `generation` is the generation's id."""
        self._seen[generation] = seen

    def note_mode(self, node: NodeRow, generation: int, *, development: bool) -> None:
        """Keep the mode that a session of the node reported, if it can differ from the stored mode.

        `node` is the row as the session read it. A report that waits to be stored may be newer than the row.
        """
        if node.id in self._modes or development != node.development:
            self._modes[node.id] = _ModeReport(node.tenant, generation, development)

    async def store(self) -> None:
        """Store all kept values. A node whose mode changed gets an audit entry, `node.mode_changed`."""
        seen, modes = dict(self._seen), dict(self._modes)
        if not seen and not modes:
            return
        with fault_point("fabric.session.seen"):
            async with self._transaction():
                for key, entry in seen.items():
                    await self._nodes.set_seen(key, entry)
                for node, report in modes.items():
                    await self._store_mode(node, report)
        for key, entry in seen.items():
            if self._seen.get(key) is entry:
                del self._seen[key]
        for node, report in modes.items():
            if self._modes.get(node) is report:
                del self._modes[node]

    async def _store_mode(self, node: NodeId, report: _ModeReport) -> None:
        if await self._nodes.set_development(node, report.development):
            await self._audit.write(
                str(NodeSpiffeId(self._trust_domain, report.tenant, node)),
                "node.mode_changed",
                node,
                report.tenant,
                generation=report.generation,
                mode="development" if report.development else "production",
            )
