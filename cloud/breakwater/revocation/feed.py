"""Use case and background task: the revocation feed. Other services fetch revoked service certificates by long poll.

The entries are in the database; this module stores none. Each answer also contains the key id of the CA that issued
Breakwater's own certificate, because a service has to renew its certificate when this CA changes. One query reads the
feed's counter for all polls: after a revocation by this process, after a hint of another process (a replica, the local
command line), and at least every second.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from cloud.breakwater.store.revocation_status import RevocationStatusStore
from cloud.contracts.breakwater import Revocations, RevokedSerial
from cloud.storage import ServiceEngine, StorageError
from cloud.tasks.stopping import Stopping
from protocol.limits import CLOCK_SKEW

log = logging.getLogger("cascade.breakwater.feed")

POLL_SECONDS = 0.25
"""Interval of the queries on SQLite, where the command line cannot send hints."""
HINTED_POLL_SECONDS = 1.0
"""Interval of the queries on PostgreSQL, for lost hints."""


def poll_seconds_of(engine: ServiceEngine) -> float:
    """Return the interval in which a background task looks for revocations by other processes."""
    return HINTED_POLL_SECONDS if engine.sends_hints else POLL_SECONDS


class RevocationFeed:
    """The revocation feed of one process: it answers polls, and `run` wakes them."""

    def __init__(
        self, store: RevocationStatusStore, now: Callable[[], datetime], poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._store = store
        self._now = now
        self._poll_seconds = poll_seconds
        self._issuer = ""
        self._changed = asyncio.Event()
        self._woken = asyncio.Event()
        self._closed = False

    def wake(self) -> None:
        """Read the counter now, because a certificate was revoked."""
        self._woken.set()

    def report_issuer(self, key_id: str) -> None:
        """Set the key id (hex) of the CA that issued Breakwater's own certificate. Empty if that CA is not trusted."""
        if key_id != self._issuer:
            self._issuer = key_id
            self._answer_polls()

    def _answer_polls(self) -> None:
        """Wake all waiting polls; the answer may have changed."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def after(self, cursor: int, wait_seconds: float, issuer: str | None = None) -> Revocations:
        """Return the entries after `cursor`, as soon as there are any.

        Without new entries the answer is empty after `wait_seconds`. If `issuer` is given and Breakwater's own
        certificate is from another CA, the poll is answered at once. Expired certificates are left out.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        while True:
            # The event is taken before the rows are read. A change between the two then wakes this poll.
            changed = self._changed
            rows = await self._store.feed(cursor, self._now() - CLOCK_SKEW)
            left = deadline - loop.time()
            if rows or left <= 0 or self._closed or issuer not in (None, self._issuer):
                entries = tuple(RevokedSerial(row.feed, row.serial, row.not_after, row.reason) for row in rows)
                return Revocations(entries[-1].feed if entries else cursor, entries, self._issuer)
            try:
                async with asyncio.timeout(left):
                    await changed.wait()
            except TimeoutError:
                continue

    async def run(self, stopping: Stopping) -> None:
        """Run until the process stops. Then all polls, including later ones, are answered at once."""
        known = -1
        while True:
            self._woken.clear()
            try:
                head = await self._store.head()
            except StorageError as error:
                log.error("cannot read the counter of the revocation feed", extra={"reason": str(error)})
                head = known
            if head != known:
                known = head
                self._answer_polls()
            if await stopping.first(self._woken, self._poll_seconds):
                self._closed = True
                self._answer_polls()
                return
