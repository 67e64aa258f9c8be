"""Background task: follow Breakwater's revocation feed, and hold the set of revoked service certificates.

The set is read at every request. The feed is a long poll that answers within a second of a revocation. The service's
own database stores the set, so that a restarted service refuses revoked peers before Breakwater answers. Rules:

- An entry stays until its certificate has expired, whatever the feed returns later.
- After a failed call the whole feed is read again. So no revocation is missed if Breakwater's database was restored
from a backup and its cursor went back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime

from cloud.contracts.breakwater import PATH_REVOCATIONS, Revocations, RevokedSerial
from cloud.mtls.client import CallError, CloudClient
from cloud.storage import StorageError
from cloud.tasks.back_off import BackOff
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.revocation")

WAIT_SECONDS = 60
"""Seconds of one long poll. It is short enough to notice a connection that broke without a sign."""
ANSWER_SECONDS = 10.0
"""Seconds for the answer, in addition to the wait."""
RETRY_SECONDS_FIRST = 0.25
"""Longest pause after the first failed call. Each further failure doubles it."""
RETRY_SECONDS_MAX = 5.0
"""Longest pause after failed calls; each pause is random up to the limit. A service must not be without the feed for
long."""
PRUNE_SECONDS = 3600.0
"""Seconds between two removals of expired entries."""

Load = Callable[[], Awaitable[Iterable[RevokedSerial]]]
Save = Callable[[Sequence[RevokedSerial]], Awaitable[None]]
Forget = Callable[[datetime], Awaitable[None]]
Issuing = Callable[[str], None]


class RevokedSet:
    """The set of revoked service certificates.

    `load` returns the stored entries. `save` stores entries; a repeat has no effect. `forget` deletes entries that have
    expired at a time. `issuing` is called with the key id of the CA that issued Breakwater's own certificate, with the
    first answer and whenever it changes.
    """

    def __init__(
        self,
        *,
        load: Load,
        save: Save,
        forget: Forget,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        issuing: Issuing = lambda _: None,
    ) -> None:
        self._load = load
        self._save = save
        self._forget = forget
        self._now = now
        self._issuing = issuing
        self._issuer = ""
        self._ends: dict[int, datetime] = {}
        self._cursor = 0
        self._back_off = BackOff(RETRY_SECONDS_FIRST, RETRY_SECONDS_MAX, entropy)
        self._pruned_at = 0.0
        self.trouble = ""
        """Why the last try to fetch the feed failed. Empty if it worked, or before the first try."""

    def __contains__(self, serial: int) -> bool:
        return serial in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    async def load(self) -> None:
        """Add the stored entries. Called before the service listens. Raises StorageError."""
        self._add(await self._load())

    def _add(self, entries: Iterable[RevokedSerial]) -> None:
        for entry in entries:
            self._ends[int(entry.serial, 16)] = entry.not_after.astimezone(UTC)

    async def refresh(self, client: CloudClient, wait_seconds: int = 0) -> int:
        """Fetch the entries since the last answer, and return their number. Waits up to `wait_seconds` for an entry.

        New entries take effect before they are stored. After an exception, the next call fetches everything again.
        Raises CallError, StorageError, and ValueError if the serial of an entry is not hexadecimal.
        """
        path = f"{PATH_REVOCATIONS}?cursor={self._cursor}&wait={wait_seconds}&issuer={self._issuer}"
        self._cursor = 0
        answer = (await client.call("GET", path, seconds=wait_seconds + ANSWER_SECONDS)).into(Revocations)
        self._add(answer.entries)
        if answer.entries:
            await self._save(answer.entries)
        self._cursor = answer.cursor
        if answer.issuer != self._issuer:
            self._issuer = answer.issuer
            self._issuing(answer.issuer)
        return len(answer.entries)

    async def follow(self, client: Callable[[], CloudClient], stopping: Stopping) -> None:
        """Follow the feed until the process stops; a running poll then ends at once. This is the background task."""
        wait_seconds = 0
        while not stopping.requested:
            try:
                if await stopping.cancels(self.refresh(client(), wait_seconds)):
                    return
                await self._prune()
            except (CallError, StorageError, ValueError) as error:
                wait_seconds = 0
                self.trouble = f"{type(error).__name__}: {error}"
                log.warning("cannot fetch revocations", extra={"reason": self.trouble})
                if await stopping.sleep(self._back_off.failed(asyncio.get_running_loop().time())):
                    return
            else:
                wait_seconds = WAIT_SECONDS
                self._back_off.worked()
                self.trouble = ""

    async def _prune(self) -> None:
        """Remove expired entries once an hour. Their certificates are refused because they have expired."""
        at = asyncio.get_running_loop().time()
        if self._pruned_at and at < self._pruned_at + PRUNE_SECONDS:
            return
        self._pruned_at = at
        await self.prune()

    async def prune(self) -> None:
        """Remove expired entries, and fetch everything the next time, because this clock may have been wrong.

        Raises StorageError.
        """
        now = self._now()
        self._cursor = 0
        self._ends = {serial: end for serial, end in self._ends.items() if end > now}
        await self._forget(now)
