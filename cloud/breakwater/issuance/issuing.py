"""Use cases: issue certificates to nodes, services and OCSP responders.

Each use case has four steps. It parses the request, chooses the authority and a place in its CRL shards, makes the
order, and carries it out (`executor.py`). This module contains no HTTP, no SQL and no key material.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.errors import (
    AuthorityRetired,
    CsrRefused,
    NotAdmitted,
    RenewedTooOften,
    SignerError,
    SignerUnavailable,
    ValueRefused,
)
from cloud.breakwater.generations import node_of
from cloud.breakwater.issuance.executor import OrderExecutor
from cloud.breakwater.issuance.requests import (
    DEVICE_USAGE,
    SESSION_USAGE,
    DeviceRequest,
    ServiceRequest,
    SessionRequest,
    hosts_of,
    node_key,
    request_key_of,
    responder_order,
    service_key,
)
from cloud.breakwater.issuance.session_limits import SessionLimits
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.profiles import SERIAL_BYTES, Issuer, make_serial
from cloud.breakwater.revocation.crl_shards import Places
from cloud.breakwater.store.issuance import IssuanceStore, Order, serial_text
from cloud.contracts.breakwater import IssueNodeCertificate
from cloud.tasks.keyed_lock import KeyedLock
from protocol.ids import NodeSpiffeId, ServiceSpiffeId
from protocol.limits import CLOCK_SKEW
from protocol.messages.sessions import Certificate

RENEWALS_MAX = 100
"""How often a generation may renew its device certificate within `RENEWALS_WINDOW`. A correct node needs it rarely."""
RENEWALS_WINDOW = timedelta(hours=1)


class Issuing:
    """Issues certificates in one process."""

    def __init__(
        self,
        *,
        store: IssuanceStore,
        authorities: Authorities,
        places: Places,
        executor: OrderExecutor,
        trust_domain: str,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        limits_factor: float = 1.0,
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._places = places
        self._executor = executor
        self._trust_domain = trust_domain
        self._now = now
        self._entropy = entropy
        self._renewals: KeyedLock[str] = KeyedLock()
        self._session_limits = SessionLimits(store, now, limits_factor)

    async def ready(self) -> None:
        """Raises StorageError or SignerError when the database or an active CA cannot be used."""
        await self._store.ping()
        self._authorities.active("nodes")
        self._authorities.active("services")

    async def issue_device(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """Issue a device certificate that ends at `body.not_after`. `caller` is the name in the audit.

        Raises:
            CsrRefused, GenerationClosed, Conflict, ValueRefused: the request is refused.
            And the other errors of `OrderExecutor.execute`.
        """
        spiffe = node_of(self._trust_domain, body.tenant, body.node, body.generation)
        request = DeviceRequest(
            key=node_key(body.csr, spiffe, body.generation, DEVICE_USAGE),
            request_key=request_key_of(caller, body.request),
            caller=caller,
            spiffe=spiffe,
            generation=body.generation,
            at=self._now(),
            not_after=self._future(body.not_after),
        )
        return await self._issue(request)

    async def issue_session(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """Issue a session certificate. `body.not_after` is the end of the device certificate.

        Raises as `issue_device`, and SessionsTooOften.
        """
        spiffe = node_of(self._trust_domain, body.tenant, body.node, body.generation)
        await self._session_limits.require(spiffe.node)
        request = SessionRequest(
            key=node_key(body.csr, spiffe, body.generation, SESSION_USAGE),
            request_key=request_key_of(caller, body.request),
            caller=caller,
            spiffe=spiffe,
            generation=body.generation,
            at=self._now(),
            not_after=self._future(body.not_after),
        )
        return await self._issue(request)

    async def renew_device(self, spiffe: NodeSpiffeId, generation: int, csr_der: bytes, request_id: str) -> Certificate:
        """Issue the next device certificate of a generation, for the same key and the same length of validity.

        Raises as `issue_device`, and:
            CsrRefused: also when the key is not the key of the generation.
            NotAdmitted: the generation has no device certificate.
            RenewedTooOften: `RENEWALS_MAX` renewals in `RENEWALS_WINDOW`. Repeats of these renewals are answered.
        """
        key = node_key(csr_der, spiffe, generation, DEVICE_USAGE)
        device = await self._store.device(spiffe.node, generation)
        if device is None:
            raise NotAdmitted("this generation has no device certificate to renew")
        if device.spki_sha256 != key.spki_sha256:
            raise CsrRefused("the key is not the key of this generation's device certificate")
        caller = f"tenant/{spiffe.tenant}/node/{spiffe.node}"
        now = self._now()
        request = DeviceRequest(
            key=key,
            request_key=request_key_of(caller, request_id),
            caller=caller,
            spiffe=spiffe,
            generation=generation,
            at=now,
            not_after=now - CLOCK_SKEW + (device.not_after - device.not_before),
        )
        # One at a time, so that simultaneous requests count too.
        async with self._renewals.holding(f"{spiffe.node}.{generation}"):
            await self._require_seldom(request)
            return await self._issue(request)

    async def _require_seldom(self, request: DeviceRequest) -> None:
        """Raises RenewedTooOften."""
        others = await self._store.renewals(
            request.caller,
            request.spiffe.node,
            request.generation,
            self._now() - RENEWALS_WINDOW,
            request.request_key,
            RENEWALS_MAX,
        )
        if others >= RENEWALS_MAX:
            raise RenewedTooOften(RENEWALS_WINDOW)

    async def issue_service(
        self, name: str, csr_der: bytes, request_id: str, caller: str, shown: int = 0
    ) -> Certificate:
        """Issue a certificate to the service `name`, with its recorded host names.

        `shown` is the serial of the certificate that authenticated the request, 0 if there was none. It is checked once
        more in the transaction of the record. Otherwise a thief could start a request before the revocation of the
        stolen certificate and finish it afterwards.

        Raises as `issue_device`, and:
            NotAdmitted: no host names are recorded, or the certificate `shown` is revoked.
        """
        recorded = await self._store.hosts(name)
        if not recorded:
            raise NotAdmitted(f"the service {name} has no recorded host names")
        spiffe, hosts = ServiceSpiffeId(self._trust_domain, name), hosts_of(recorded)
        request = ServiceRequest(
            key=service_key(csr_der, spiffe, hosts),
            request_key=request_key_of(caller, request_id),
            caller=caller,
            spiffe=spiffe,
            dns_names=hosts.dns_names,
            addresses=hosts.addresses,
            at=self._now(),
            shown=serial_text(shown) if shown else "",
        )
        return await self._issue(request)

    async def issue_responder(self, authority: str, public_key: ec.EllipticCurvePublicKey) -> Certificate:
        """Issue a certificate to a delegated OCSP responder. `authority` is the authority that it answers for.

        Raises:
            SignerError: the authority is unknown or signs nothing any more. SignerUnavailable: its key is not open.
            And the other errors of `OrderExecutor.execute`.
        """
        issuer = self._authorities.find(authority)
        if issuer is None:
            raise SignerError(f"cannot issue: there is no authority {authority}")
        if not self._authorities.can_sign(authority):
            # Checked first, because every record without a signature becomes an orphan.
            raise SignerUnavailable(f"cannot issue: the key of {authority} is not available")
        order = responder_order(issuer, describe_key(public_key), self._serial(), self._now())
        try:
            return await self._executor.execute(order, issuer)
        except AuthorityRetired as error:
            await self._authorities.refresh()
            raise SignerError(f"cannot issue: {authority} is revoked or not activated") from error

    async def _issue(self, request: DeviceRequest | SessionRequest | ServiceRequest) -> Certificate:
        """Issue from the active authority. Try once more with the next one if it stopped issuing meanwhile."""
        for _ in range(2):
            issuer = self._authorities.active(request.CA)
            order = await self._order(request, issuer)
            try:
                return await self._executor.execute(order, issuer)
            except AuthorityRetired:
                await self._authorities.refresh()
        raise AuthorityRetired(f"the active {request.CA} CA is changing; ask again")

    async def _order(self, request: DeviceRequest | SessionRequest | ServiceRequest, issuer: Issuer) -> Order:
        """Make the order of a request. Certificates other than sessions get a place in a CRL shard."""
        if isinstance(request, SessionRequest):
            return request.order(issuer, self._serial())
        place = await self._places.take(issuer.authority)
        return request.order(issuer, place, self._serial())

    def _future(self, not_after: datetime) -> datetime:
        if not_after.tzinfo is None:
            raise ValueRefused("`not_after` has no time zone")
        if not_after <= self._now() + timedelta(seconds=1):
            raise ValueRefused("`not_after` is in the past")
        try:
            return not_after.astimezone(UTC)
        except OverflowError as error:
            raise ValueRefused("`not_after` is out of range") from error

    def _serial(self) -> int:
        return make_serial(self._entropy(SERIAL_BYTES))
