"""Use case and background task: CRLs are published on a schedule, after a revocation, and before one is given out.

Decides nothing about revocation: it shows what the rows say. The order is fixed: draw a number and read the rows (one
transaction, durable), build and lint, sign, store over a lower number only, so that replicas may race and numbers
never repeat or fall. While the CA key is out of reach the last CRL is served; it outlives that by `CrlSettings`.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Protocol

import msgspec

from cloud.breakwater.errors import IssuerError, SignerError
from cloud.breakwater.pkix.crl import ENTRIES_MAX, UNSPECIFIED, Entry, make_crl, want_crl
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.pkix.profiles import Issuer
from cloud.breakwater.revocation.crl_shards import crl_path
from cloud.breakwater.settings import CrlSettings
from cloud.breakwater.store.shards import Draw, PublishedCrl, Shard, ShardStore
from cloud.storage import StorageError
from cloud.tasks.back_off import BackOff
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point
from protocol.limits import CLOCK_SKEW

log = logging.getLogger("cascade.breakwater.publisher")

Now = Callable[[], datetime]

POLL_SECONDS = 0.25
"""Revocations by other processes (replicas, the local command line) are found in the rows within this time."""
RETRY_SECONDS = 1.0
"""After a failed publication of a shard, before a request for its CRL tries it again."""
RETRY_SECONDS_MAX = 30.0
"""Between the tries of the background task; they double. A token that is away is not hammered."""
AT_ONCE_MAX = 4
"""Publications at a time; each is 0.1 s of one core at 5,000 entries."""
DUE_MAX = 500
"""Shards looked at in one run; the next run follows at once when there are as many."""


class Issuers(Protocol):
    """`cloud.breakwater.authorities.Authorities`, as far as it is needed here."""

    def find(self, authority_id: str) -> Issuer | None: ...


class Signs(Protocol):
    """`cloud.breakwater.keys.signer.Signer`, as far as it is needed here."""

    async def sign(self, linted: Linted) -> bytes: ...


class CrlPublisher:
    """The publications of one process. `base_url` is where the world finds the CRLs; no slash at its end."""

    def __init__(
        self, store: ShardStore, issuers: Issuers, signer: Signs, base_url: str, schedule: CrlSettings, now: Now
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._signer = signer
        self._base_url = base_url.rstrip("/")
        self._schedule = schedule
        self._now = now
        self._locks: dict[str, asyncio.Lock] = {}
        self._places = asyncio.Semaphore(AT_ONCE_MAX)
        self._woken = asyncio.Event()
        self._failed: dict[str, BackOff] = {}
        """By shard, of those whose last publication failed."""

    def wake(self) -> None:
        """This process revoked something: look at the rows now."""
        self._woken.set()

    async def publish(self, shard: str) -> PublishedCrl | None:
        """Make and store a CRL of what the rows say now; None for an unknown shard, or when another was faster.

        Raises SignerError (SignerUnavailable: try again), LintError, StorageError; the last CRL stays.
        """
        async with self._locks.setdefault(shard, asyncio.Lock()), self._places:
            return await self._publish(shard)

    async def _publish(self, shard: str) -> PublishedCrl | None:
        now = self._now()
        with fault_point("breakwater.crl.draw"):
            draw = await self._store.draw(shard, now, ENTRIES_MAX)
        if draw is None:
            return None
        linted, crl = await self._make(draw, now)
        crl = msgspec.structs.replace(crl, data=await self._signer.sign(linted))
        with fault_point("breakwater.crl.store"):
            stored = await self._store.publish(crl, draw.revision, now + self._schedule.period)
        if not stored:
            return None
        log.info("published", extra={"shard": shard, "number": crl.number, "entries": crl.entries})
        return crl

    async def _make(self, draw: Draw, now: datetime) -> tuple[Linted, PublishedCrl]:
        issuer = self._issuers.find(draw.authority)
        if issuer is None:
            raise SignerError(f"cannot publish {draw.shard}: no CA {draw.authority} here")
        entries = [Entry(int(row.serial, 16), row.revoked_at or now, row.reason or UNSPECIFIED) for row in draw.revoked]
        wanted = want_crl(draw.number, now, self._schedule.life, entries, self._base_url + crl_path(draw.shard))
        # 5,000 entries take a tenth of a second: not in the event loop.
        linted = await asyncio.to_thread(make_crl, wanted, issuer, draw.published_number)
        return linted, PublishedCrl(
            shard=draw.shard,
            number=draw.number,
            this_update=wanted.this_update,
            next_update=wanted.next_update,
            entries=len(entries),
            data=b"",
        )

    async def ensure_fresh(self, shard: str) -> PublishedCrl | None:
        """The CRL of a shard, with all in it that was revoked before this call; None for an unknown shard.

        When a new one cannot be made the last one is returned, which is good until its end; the reason is logged.
        Raises StorageError, and SignerError when there is no CRL yet.
        """
        found = await self._store.find(shard)
        if found is None:
            return None
        if not self.is_due(found):
            return await self._store.published(found)
        failed: IssuerError | None = None
        before, at = self._failed.get(shard), asyncio.get_running_loop().time()
        if before is None or at >= before.failed_at + RETRY_SECONDS:
            failed = await self._renew(shard)
        last = await self._last(shard)
        if last is None:
            raise failed or SignerError(f"no CRL of {shard} could be made yet")
        return last

    def is_due(self, shard: Shard) -> bool:
        """Whether a shard wants a new CRL now."""
        return shard.due(self._now(), self._latest())

    def _latest(self) -> datetime:
        """When the next CRL of a shard that was just published is due, by the fastest clock of a replica."""
        return self._now() + self._schedule.period + CLOCK_SKEW

    async def _last(self, shard: str) -> PublishedCrl | None:
        """The published CRL; read a second time when another publication fell between the two reads."""
        for _ in range(2):
            found = await self._store.find(shard)
            if found is not None and (crl := await self._store.published(found)) is not None:
                return crl
        return None

    async def _renew(self, shard: str) -> IssuerError | None:
        """Publish unless somebody has meanwhile; one at a time. The failure, if there is one, is logged and returned."""
        try:
            async with self._locks.setdefault(shard, asyncio.Lock()), self._places:
                found = await self._store.find(shard)
                if found is not None and self.is_due(found):
                    await self._publish(shard)
        except (IssuerError, StorageError) as error:
            back_off = self._failed.setdefault(shard, BackOff(RETRY_SECONDS, RETRY_SECONDS_MAX))
            back_off.failed(asyncio.get_running_loop().time())
            log.error("publication failed", extra={"shard": shard, "reason": f"{type(error).__name__}: {error}"})
            if isinstance(error, StorageError):
                raise
            return error
        self._failed.pop(shard, None)
        return None

    async def run_once(self) -> int:
        """Publish what is due; returns how many shards were tried. Failures are logged and tried again later."""
        try:
            due = await self._store.due(self._now(), self._latest(), DUE_MAX)
        except StorageError as error:
            log.error("cannot look for due CRLs", extra={"reason": str(error)})
            return 0
        at = asyncio.get_running_loop().time()
        tried = [shard for shard in due if shard not in self._failed or at >= self._failed[shard].ready_at]
        await asyncio.gather(*(self._try(shard) for shard in tried))
        return len(tried)

    async def _try(self, shard: str) -> None:
        """One publication of the background task: what fails was logged and is tried again."""
        with suppress(StorageError):
            await self._renew(shard)

    async def run(self, stopping: Stopping) -> None:
        """The background task, until the process goes down."""
        while True:
            self._woken.clear()
            tried = await self.run_once()
            if await stopping.first(self._woken, 0.0 if tried == DUE_MAX else POLL_SECONDS):
                return

    async def shards(self) -> list[Shard]:
        """Every shard as it stands."""
        return await self._store.all()
