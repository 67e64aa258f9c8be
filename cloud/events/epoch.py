"""Use case: the epoch of a service's events: the time in milliseconds at which its database was made or restored.

Positions and sequences of two epochs do not compare. A restored database has lost the events after its backup, and will
use their numbers again. With a higher epoch every cursor from before is refused, and each consumer reads the snapshot.
"""

from datetime import datetime

from cloud.events.store.outbox import OutboxState, OutboxStore
from cloud.storage import ServiceEngine
from protocol.faults import fault_point


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


async def state_of(store: OutboxStore, now: datetime) -> OutboxState:
    """Return the state of the outbox. In a new database the epoch begins. Raises StorageError."""
    state = await store.state()
    while state is None:
        with fault_point("events.epoch.begin"):
            await store.begin(_milliseconds(now))
        state = await store.state()
    return state


async def raise_epoch(engine: ServiceEngine, now: datetime) -> None:
    """Begin another epoch after a restore: a higher one than the stored one, also if the clock is behind.

    Raises StorageError.
    """
    store = OutboxStore(engine)
    async with engine.transaction():
        state = await store.state()
        await store.set_epoch(max(_milliseconds(now), state.epoch + 1 if state else 0))
