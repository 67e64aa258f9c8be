"""Use case and background task: publish CRLs on a schedule, after a revocation, and before a request if one is due.

A CRL contains the revocations in the database; this module decides none. Rule: A publication has four steps. It draws a
number and reads the revocations in one durable transaction, builds and lints the CRL, signs it, and stores it only over
a lower number. So replicas can publish at the same time, and numbers never repeat or decrease. While the CA key is not
available, the last CRL is served. `CrlSettings` makes it valid for longer than an outage.
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
from cloud.storage import ServiceEngine, StorageError
from cloud.tasks.back_off import BackOff
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point
from protocol.limits import CLOCK_SKEW

log = logging.getLogger("cascade.breakwater.publisher")

Now = Callable[[], datetime]

RETRY_SECONDS = 1.0
"""After a failed publication: the pause before a request tries again, and the background task's first pause."""
RETRY_SECONDS_MAX = 30.0
"""The background task's pauses double up to this, so that it does not flood a token that is down."""
AT_ONCE_MAX = 4
"""Publications at the same time. One with 5,000 entries takes 0.1 s of a core."""
POLL_SECONDS = 0.25
"""Interval of the queries on SQLite, where the command line cannot send hints."""
HINTED_POLL_SECONDS = 1.0
"""Interval of the queries on PostgreSQL, for lost hints."""
DUE_MAX = 500
"""Shards in one run of the background task. If a run has this many, the next run follows at once."""


def poll_seconds_of(engine: ServiceEngine) -> float:
    """Return the interval in which the background task looks for revocations by other processes."""
    return HINTED_POLL_SECONDS if engine.sends_hints else POLL_SECONDS


class Issuers(Protocol):
    """Port: finds an authority by its id. `cloud.breakwater.authorities.Authorities` is the adapter."""

    def find(self, authority_id: str) -> Issuer | None: ...


class Signs(Protocol):
    """Port: signs linted bytes. `cloud.breakwater.keys.signer.Signer` is the adapter."""

    async def sign(self, linted: Linted) -> bytes: ...


class CrlPublisher:
    """Publishes CRLs in one process. `base_url` is the public address of the CRLs."""

    def __init__(
        self,
        store: ShardStore,
        issuers: Issuers,
        signer: Signs,
        base_url: str,
        schedule: CrlSettings,
        now: Now,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._signer = signer
        self._base_url = base_url.rstrip("/")
        self._schedule = schedule
        self._now = now
        self._poll_seconds = poll_seconds
        self._locks: dict[str, asyncio.Lock] = {}
        self._places = asyncio.Semaphore(AT_ONCE_MAX)
        self._woken = asyncio.Event()
        self._failed: dict[str, BackOff] = {}
        """By shard: the pause after a failed publication. A success removes it."""

    def wake(self) -> None:
        """Look for due shards now, because a certificate was revoked."""
        self._woken.set()

    async def publish(self, shard: str) -> PublishedCrl | None:
        """Publish a new CRL of a shard now.

        Returns None for an unknown shard, or when another process published a higher number meanwhile. After an error
        the last CRL stays published.

        Raises:
            SignerError, LintError, StorageError. After SignerUnavailable a retry may succeed.
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
        log.info("CRL published", extra={"shard": shard, "number": crl.number, "entries": crl.entries})
        return crl

    async def _make(self, draw: Draw, now: datetime) -> tuple[Linted, PublishedCrl]:
        issuer = self._issuers.find(draw.authority)
        if issuer is None:
            raise SignerError(f"cannot publish the CRL of {draw.shard}: the CA {draw.authority} is unknown")
        entries = [Entry(int(row.serial, 16), row.revoked_at or now, row.reason or UNSPECIFIED) for row in draw.revoked]
        wanted = want_crl(draw.number, now, self._schedule.life, entries, self._base_url + crl_path(draw.shard))
        # A thread, because 5,000 entries take a tenth of a second.
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
        """Return the CRL of a shard, with every revocation before this call. Return None for an unknown shard.

        If a new CRL is due and cannot be made, the reason is logged and the last CRL is returned. That CRL is valid
        until its nextUpdate.

        Raises:
            StorageError.
            IssuerError: a new CRL cannot be made, and no CRL was published before.
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
            raise failed or SignerError(f"cannot publish the CRL of {shard}: the last try failed a moment ago")
        return last

    def is_due(self, shard: Shard) -> bool:
        """Whether a new CRL of the shard is due now."""
        return shard.due(self._now(), self._latest())

    def _latest(self) -> datetime:
        """Return the latest plausible `next_publish_at`. A later value comes from a replica whose clock was ahead."""
        return self._now() + self._schedule.period + CLOCK_SKEW

    async def _last(self, shard: str) -> PublishedCrl | None:
        """Return the published CRL. Reads again if another publication came between the two queries."""
        for _ in range(2):
            found = await self._store.find(shard)
            if found is not None and (crl := await self._store.published(found)) is not None:
                return crl
        return None

    async def _renew(self, shard: str) -> IssuerError | None:
        """Publish a shard if it is still due. Return an IssuerError after logging it. Raises StorageError."""
        try:
            async with self._locks.setdefault(shard, asyncio.Lock()), self._places:
                found = await self._store.find(shard)
                if found is not None and self.is_due(found):
                    await self._publish(shard)
        except (IssuerError, StorageError) as error:
            back_off = self._failed.setdefault(shard, BackOff(RETRY_SECONDS, RETRY_SECONDS_MAX))
            back_off.failed(asyncio.get_running_loop().time())
            log.error("cannot publish a CRL", extra={"shard": shard, "reason": f"{type(error).__name__}: {error}"})
            if isinstance(error, StorageError):
                raise
            return error
        self._failed.pop(shard, None)
        return None

    async def run_once(self) -> int:
        """Publish every due shard. Return the number of tries. Failures are logged and retried after a pause."""
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
        """Publish a shard. `_renew` has logged a failure, and a later run tries again."""
        with suppress(StorageError):
            await self._renew(shard)

    async def run(self, stopping: Stopping) -> None:
        """Publish due CRLs until the process stops."""
        while True:
            self._woken.clear()
            tried = await self.run_once()
            if await stopping.first(self._woken, 0.0 if tried == DUE_MAX else self._poll_seconds):
                return

    async def shards(self) -> list[Shard]:
        """Return every shard."""
        return await self._store.all()
