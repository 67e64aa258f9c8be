"""Use case: writes down what sessions showed, many in one transaction. What a crash takes is harmless."""

from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.nodes import NodeStore, Seen
from protocol.faults import fault_point


class SeenSessions:
    """What the last session of each generation showed, until it is stored."""

    def __init__(self, *, transaction: Transaction, nodes: NodeStore) -> None:
        self._transaction = transaction
        self._nodes = nodes
        self._seen: dict[str, Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, generation: str, seen: Seen) -> None:
        """Remember what a session of the generation showed; `generation` is its id."""
        self._seen[generation] = seen

    async def store(self) -> None:
        """Store all of it."""
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
