"""Background work: give an event to each object that was made before Fabric published events, once.

A consumer that reads the snapshot then finds every object. The walk goes over the objects in the order of their ids. The
events of a batch and the place of the walk are one transaction, so a crash repeats no batch, and replicas share the walk.
An object that has changed in the meantime has an event already, and gets another one with the same body.
"""

from dataclasses import dataclass, field

from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.events.first_events import DONE, KINDS, FirstEventStore, Kind, key_of
from cloud.fabric.store.keys import FIRST_EVENTS
from protocol.faults import fault_point

BATCH = 50
"""Objects of one transaction. It holds the keys of all of them for some 50 ms."""
BATCHES = 10
"""Transactions of one step."""
STEP_SECONDS = 0.5
"""Pause between two steps: at most 1,000 objects a second, so that requests have most of the database."""


@dataclass
class FirstEvents:
    """The walk of one process."""

    transaction: Transaction
    rows: FirstEventStore
    is_done: bool = field(default=False, init=False)

    async def step(self, batches: int = BATCHES) -> None:
        """Record the next objects, at most `batches` batches of them. Raises StorageError."""
        for _ in range(batches):
            if self.is_done:
                return
            await self._batch()

    async def _batch(self) -> None:
        before = await self.rows.place()
        self.is_done = before == DONE
        if self.is_done:
            return
        kind, after = _parsed(before)
        ids = await self.rows.ids(kind, after, BATCH)
        keys = dict.fromkeys(key_of(kind, each) for each in ids)
        with fault_point("fabric.events.first"):
            async with self.transaction(FIRST_EVENTS, *keys):
                if await self.rows.place() != before:
                    return  # another replica has recorded this batch
                for each in ids:
                    await self.rows.record(kind, each)
                await self.rows.set_place(_next(kind, ids))


def _parsed(place: str) -> tuple[Kind, str]:
    kind, _, after = place.partition(" ")
    return next((each for each in KINDS if each == kind), KINDS[0]), after


def _next(kind: Kind, ids: list[str]) -> str:
    """The place after a batch: in the same kind while there are objects, then at the next kind."""
    if ids:
        return f"{kind} {ids[-1]}"
    return next(iter(KINDS[KINDS.index(kind) + 1 :]), DONE)
