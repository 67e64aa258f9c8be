"""Use case: Breakwater's part of a restore. It begins an epoch, and ends one-time secrets.

Serials are random. The number of a CRL is at least the time in milliseconds, so it is higher than every number of the
time before the restore. Events get another epoch, so every service reads them again and misses no later revocation. A
one-time secret that was used after the backup could be used again, so every secret ends.
"""

import os
from datetime import datetime

from cloud.audit import SYSTEM, AuditEntries
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.restored import RestoredStore
from cloud.events.epoch import raise_epoch
from cloud.storage import ServiceEngine


async def mark_restored(engine: ServiceEngine, now: datetime, made_at: datetime, parts: str) -> None:
    """Mark the database as restored. `made_at` and `parts` describe the backup. Raises StorageError."""
    entries = AuditEntries(AuditRow, lambda: now, os.urandom)
    entry = entries.make(SYSTEM, "installation.restore", detail=f"backup of {made_at.isoformat()}, parts: {parts}")
    async with engine.transaction():
        await RestoredStore(engine).mark(now, entry)
        await raise_epoch(engine, now)
