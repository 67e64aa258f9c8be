"""Use case and background task: the feed of revoked services' certificates, as long polls of other services.

It holds no facts: the rows say what is revoked. It also reports which CA Breakwater's own certificate is of, since
those who poll must renew when that changes. One look at the feed's counter every quarter of a second serves all polls,
so that a revocation by any process (a replica, the local command line) reaches them within that time.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from cloud.breakwater.store.revocation_status import RevocationStatusStore
from cloud.contracts.breakwater import Revocations, RevokedSerial
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from protocol.limits import CLOCK_SKEW

log = logging.getLogger("cascade.breakwater.feed")

POLL_SECONDS = 0.25


class RevocationFeed:
    """The polls of one process."""

    def __init__(self, store: RevocationStatusStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._issuer = ""
        self._changed = asyncio.Event()
        self._woken = asyncio.Event()
        self._closed = False

    def wake(self) -> None:
        """This process revoked something: look at the counter now."""
        self._woken.set()

    def report_issuer(self, key_id: str) -> None:
        """Breakwater's own certificate is of this CA (its key id); empty while that CA is not trusted."""
        if key_id != self._issuer:
            self._issuer = key_id
            self._answer_polls()

    def _answer_polls(self) -> None:
        """Wake all waiting polls; the answer may have changed."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def after(self, cursor: int, wait_seconds: float, issuer: str | None = None) -> Revocations:
        """The entries after `cursor`: at once, after a revocation, or none after `wait_seconds`.

        With `issuer` also at once when Breakwater's own certificate is of another CA than that.

        The event is taken before the rows are read, so a change between the two wakes the poll.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        while True:
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
        """The background task, until the process goes down; then every poll ends at once, and so do later ones."""
        known = -1
        while True:
            self._woken.clear()
            try:
                head = await self._store.head()
            except StorageError as error:
                log.error("cannot look at the feed", extra={"reason": str(error)})
                head = known
            if head != known:
                known = head
                self._answer_polls()
            if await stopping.first(self._woken, POLL_SECONDS):
                self._closed = True
                self._answer_polls()
                return
