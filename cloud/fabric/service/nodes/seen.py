"""Use case: store the values that sessions reported, many in one transaction.

A crash loses values of the last seconds. The next session of the node reports them again.
"""

from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.nodes import NodeStore, Seen
from protocol.faults import fault_point


class SeenSessions:
    """The values that the last session of each generation reported, until they are stored."""

    def __init__(self, *, transaction: Transaction, nodes: NodeStore) -> None:
        self._transaction = transaction
        self._nodes = nodes
        self._seen: dict[str, Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, generation: str, seen: Seen) -> None:
        """Keep the values of a session for the next `store`. `generation` is the generation's id."""
        self._seen[generation] = seen

    async def store(self) -> None:
        """Store all kept values."""
        seen = dict(self._seen)
        if not seen:
            return
        with fault_point("fabric.session.seen"):
            async with self._transaction():
                for key, entry in seen.items():
                    await self._nodes.set_seen(key, entry)
        for key, entry in seen.items():
            if self._seen.get(key) is entry:
                del self._seen[key]
