"""Use case: a certificate order is carried out: build, lint, record (durable), sign, store (durable), answer.

A crash leaves at most a record without a certificate, which is never signed later: it becomes an orphan at once, in
the sweep, or at the next start. The order itself is decided elsewhere.
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
"""An issuance that takes longer is given up: half of `IN_FLIGHT`, after which others may call it an orphan."""
ELSEWHERE_SECONDS_MAX = 5.0
"""How long a repeat waits for another replica that is at work on the same request."""
ELSEWHERE_POLL_SECONDS = 0.05


class OrderExecutor:
    """The executions of one process. One at a time for each request: a record without a certificate under the same
    request is then nobody's work in progress here."""

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
        """The certificate of an order, signed by `issuer`; a repeat of its request gets the stored one.

        Raises:
            Refused: see `IssuanceStore.record`. AuthorityRetired: the authority stopped issuing.
            IssuanceLost, StillRunning, SignerUnavailable: ask again. SignerError, LintError, StorageError.
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
            except BaseException as error:  # a cancelled or failed issuance must not wait for the sweep
                await self._give_up(order)
                if isinstance(error, TimeoutError):
                    raise SignerUnavailable("the signature took too long") from error
                raise
            if not stored_now:
                raise IssuanceLost("the generation was closed, or the record given up, while it was signed")
        self._metrics.issued.add(wanted.profile, order.authority)
        return Certificate((issued, *self._authorities.chain_above(issuer)))

    async def _record(self, order: Order, tbs: bytes) -> Certificate | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ELSEWHERE_SECONDS_MAX
        while True:
            try:
                with fault_point("breakwater.certificate.record"):
                    stored = await self._store.record(order, tbs, self._now())
            except StillRunning:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(ELSEWHERE_POLL_SECONDS)
                continue
            if stored is None:
                return None
            issuer = self._authorities.find(stored.authority)
            if issuer is None:
                raise SignerError(f"there is no authority {stored.authority}")
            return Certificate((stored.certificate, *self._authorities.chain_above(issuer)))

    async def _give_up(self, order: Order) -> None:
        try:
            with fault_point("breakwater.certificate.give_up"):
                if await self._store.orphan(order, self._now()):
                    self._metrics.orphaned.add()
        except StorageError as error:
            log.error("left to the sweep", extra={"serial": serial_text(order.wanted.serial), "error": str(error)})

    async def recover(self) -> int:
        """At start, before the first request: give up what a crash left between record and certificate.

        On a database that others use too a young record may be theirs; the sweep takes it when it is not. Returns how
        many records became orphans.
        """
        return await self._orphan(IN_FLIGHT if self._store.shared else timedelta(0))

    async def sweep(self) -> int:
        """Give up every record that nobody can be at work on any more. Returns how many there were."""
        return await self._orphan(IN_FLIGHT)

    async def _orphan(self, age: timedelta) -> int:
        with fault_point("breakwater.certificate.orphan"):
            serials = await self._store.orphan_stale(self._now(), age)
        for serial in serials:
            log.warning("orphaned", extra={"serial": serial})
        if serials:
            self._metrics.orphaned.add(by=len(serials))
        return len(serials)
