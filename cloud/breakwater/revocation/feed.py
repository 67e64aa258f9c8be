"""The feed of revoked services' certificates, as long polls: what other services believe a peer by.

It holds no facts: the rows say what is revoked. By which CA Breakwater itself serves is told here too: those who
listen are those who must renew when that changes. One look at the feed's counter every quarter of a second serves all
who wait, so that a revocation by any process (a replica, the local command line) reaches them within that time.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from cloud.breakwater.store.revocation_status import RevocationStore
from cloud.contracts.breakwater import Revocations, RevokedSerial
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from protocol.limits import CLOCK_SKEW

log = logging.getLogger("cascade.breakwater.feed")

POLL_SECONDS = 0.25


class Feed:
    """The waiting room of one process."""

    def __init__(
        self, store: RevocationStore, now: Callable[[], datetime], issuer: Callable[[], str] = lambda: ""
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._now = now
        self._changed = asyncio.Event()
        self._kicked = asyncio.Event()
        self._closed = False

    def kick(self) -> None:
        """This process revoked something: look at the counter now."""
        self._kicked.set()

    def wake(self) -> None:
        """What is told may be another: let those look who wait."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def after(self, cursor: int, wait_seconds: float, issuer: str | None = None) -> Revocations:
        """The entries after `cursor`: at once, after a revocation, or none after `wait_seconds`.

        Whoever knows `issuer` is told at once when it is another.

        The event is taken before the rows are read, so a change between the two wakes the poll.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        while True:
            changed = self._changed
            rows = await self._store.feed(cursor, self._now() - CLOCK_SKEW)
            left = deadline - loop.time()
            issues = self._issuer()
            if rows or left <= 0 or self._closed or issuer not in (None, issues):
                entries = tuple(RevokedSerial(row.feed, row.serial, row.not_after, row.reason) for row in rows)
                return Revocations(entries[-1].feed if entries else cursor, entries, issues)
            try:
                async with asyncio.timeout(left):
                    await changed.wait()
            except TimeoutError:
                continue

    async def run(self, stopping: Stopping) -> None:
        """The background task, until the process goes down; then every poll ends at once, and so do later ones."""
        known = -1
        while True:
            self._kicked.clear()
            try:
                head = await self._store.head()
            except StorageError as error:
                log.error("cannot look at the feed", extra={"reason": str(error)})
                head = known
            if head != known:
                known = head
                self.wake()
            if await stopping.first(self._kicked, POLL_SECONDS):
                self._closed = True
                self.wake()
                return
