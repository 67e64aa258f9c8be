"""Use case: carry out a certificate order. The steps are build, lint, record (durable), sign, store (durable), answer.

A failure leaves at most a record without a certificate. Such a record is never signed later. It becomes an orphan at
once, in the sweep, or at the next start. `issuing.py` decides the order.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.errors import IssuanceLost, SignerError, SignerUnavailable, StillRunning
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.pkix.lint import lint
from cloud.breakwater.pkix.profiles import Issuer, build
from cloud.breakwater.store.issuance import IN_FLIGHT, IssuanceStore, Order, serial_text
from cloud.storage import StorageError
from cloud.tasks.keyed_lock import KeyedLock
from protocol.faults import fault_point
from protocol.messages.sessions import Certificate

log = logging.getLogger("cascade.breakwater")

SIGN_SECONDS_MAX = 30.0
"""A longer issuance is given up. This is half of `IN_FLIGHT`, after which other processes may orphan the record."""
OTHER_REPLICA_SECONDS_MAX = 5.0
"""How long a repeated request waits for another replica that is working on it."""
OTHER_REPLICA_POLL_SECONDS = 0.05
"""The database alone shows that another replica is done, and it sends no event."""


class OrderExecutor:
    """Carries out orders in one process, and only one order of a request at a time.

    So if an older record of the request has no certificate, this process is not working on that record.
    """

    def __init__(
        self,
        store: IssuanceStore,
        authorities: Authorities,
        signer: Signer,
        metrics: IssuerMetrics,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._signer = signer
        self._metrics = metrics
        self._now = now
        self._requests: KeyedLock[str] = KeyedLock()

    async def execute(self, order: Order, issuer: Issuer) -> Certificate:
        """Carry out an order with `issuer` and return the certificate chain. A repeat gets the stored certificate.

        Raises:
            Refused: see `IssuanceStore.record`.
            AuthorityRetired: the authority stopped issuing.
            IssuanceLost, StillRunning, SignerUnavailable: a retry may succeed.
            SignerError, LintError, StorageError.
        """
        wanted = order.wanted
        async with self._requests.holding(order.request_key):
            linted = lint(build(wanted, issuer), wanted, issuer)
            stored = await self._record(order, linted.tbs)
            if stored is not None:
                self._metrics.repeated.add(wanted.profile)
                return stored
            try:
                async with asyncio.timeout(SIGN_SECONDS_MAX):
                    issued = await self._signer.sign(linted)
                    with fault_point("breakwater.certificate.store"):
                        stored_now = await self._store.store_certificate(order, issued)
            except BaseException as error:  # after a cancellation too, the record must not wait for the sweep
                await self._give_up(order)
                if isinstance(error, TimeoutError):
                    raise SignerUnavailable("cannot sign: the signature took too long") from error
                raise
            if not stored_now:
                raise IssuanceLost(
                    "the generation was closed or the record was given up during the signature; ask again"
                )
        self._metrics.issued.add(wanted.profile, order.authority)
        return Certificate((issued, *self._authorities.chain_above(issuer)))

    async def _record(self, order: Order, tbs: bytes) -> Certificate | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OTHER_REPLICA_SECONDS_MAX
        while True:
            try:
                with fault_point("breakwater.certificate.record"):
                    stored = await self._store.record(order, tbs, self._now())
            except StillRunning:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(OTHER_REPLICA_POLL_SECONDS)
                continue
            if stored is None:
                return None
            issuer = self._authorities.find(stored.authority)
            if issuer is None:
                raise SignerError(f"cannot return the certificate: there is no authority {stored.authority}")
            return Certificate((stored.certificate, *self._authorities.chain_above(issuer)))

    async def _give_up(self, order: Order) -> None:
        try:
            with fault_point("breakwater.certificate.give_up"):
                if await self._store.orphan(order, self._now()):
                    self._metrics.orphaned.add()
        except StorageError as error:
            log.error(
                "cannot orphan a record now; the sweep will",
                extra={"serial": serial_text(order.wanted.serial), "error": str(error)},
            )

    async def recover(self) -> int:
        """Make orphans of the records that a crash left without a certificate. Call it before the first request.

        On a shared database a young record may belong to another process, so only old records are orphaned here. The
        sweep does the rest. Returns the number of orphans.
        """
        return await self._orphan(IN_FLIGHT if self._store.shared else timedelta(0))

    async def sweep(self) -> int:
        """Make orphans of records on which no process can be working any more. Return their number."""
        return await self._orphan(IN_FLIGHT)

    async def _orphan(self, age: timedelta) -> int:
        with fault_point("breakwater.certificate.orphan"):
            serials = await self._store.orphan_stale(self._now(), age)
        for serial in serials:
            log.warning("record orphaned", extra={"serial": serial})
        if serials:
            self._metrics.orphaned.add(by=len(serials))
        return len(serials)
