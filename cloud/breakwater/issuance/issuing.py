"""Use cases: certificates are issued to nodes, services and OCSP responders.

Each runs straight through: parse the request, choose the authority and the place in its CRLs, make the order, carry it
out (`executor.py`). No HTTP, no SQL, no key material.
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
    DeviceRequest,
    ServiceRequest,
    SessionRequest,
    hosts_of,
    node_key,
    request_key_of,
    responder_order,
    service_key,
)
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
"""Device certificates that a node may renew for itself in `RENEWALS_WINDOW`; an honest one does it once in weeks."""
RENEWALS_WINDOW = timedelta(hours=1)


class Issuing:
    """The issuer of one process."""

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
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._places = places
        self._executor = executor
        self._trust_domain = trust_domain
        self._now = now
        self._entropy = entropy
        self._renewals: KeyedLock[str] = KeyedLock()

    async def ready(self) -> None:
        """Raises when the database or a CA cannot be used."""
        await self._store.ping()
        self._authorities.active("nodes")
        self._authorities.active("services")

    async def issue_device(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """A device certificate until `not_after`. Raises CsrRefused, GenerationClosed, Conflict, ValueRefused."""
        spiffe = node_of(self._trust_domain, body.tenant, body.node, body.generation)
        request = DeviceRequest(
            key=node_key(body.csr, spiffe, body.generation),
            request_key=request_key_of(caller, body.request),
            caller=caller,
            spiffe=spiffe,
            generation=body.generation,
            at=self._now(),
            not_after=self._future(body.not_after),
        )
        return await self._issue(request)

    async def issue_session(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """A session certificate, never past `not_after` of the device certificate. Raises as `issue_device`."""
        spiffe = node_of(self._trust_domain, body.tenant, body.node, body.generation)
        request = SessionRequest(
            key=node_key(body.csr, spiffe, body.generation),
            request_key=request_key_of(caller, body.request),
            caller=caller,
            spiffe=spiffe,
            generation=body.generation,
            at=self._now(),
            not_after=self._future(body.not_after),
        )
        return await self._issue(request)

    async def renew_device(self, spiffe: NodeSpiffeId, generation: int, csr_der: bytes, request_id: str) -> Certificate:
        """A new device certificate for the same key, for as long as the one before was made for.

        Raises:
            CsrRefused: also when the key is not the one of this generation.
            NotAdmitted: the generation has no device certificate.
            RenewedTooOften: it has made `RENEWALS_MAX` in `RENEWALS_WINDOW`; a repeat of one of them is answered.
        """
        key = node_key(csr_der, spiffe, generation)
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
        # One at a time, so that requests sent together are counted too.
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
        """A certificate for the service `name`, with the host names recorded for it.

        `shown` is the serial of the certificate that it asks with: revoked while the request was on its way, it gets
        nothing, or a thief's half-sent request would outlive the revocation. Raises CsrRefused, NotAdmitted.
        """
        recorded = await self._store.hosts(name)
        if not recorded:
            raise NotAdmitted(f"no host names are recorded for the service {name}")
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
        """A delegated OCSP responder's certificate, by the very authority that it answers for. Raises SignerError."""
        issuer = self._authorities.find(authority)
        if issuer is None:
            raise SignerError(f"there is no authority {authority}")
        if not self._authorities.can_sign(authority):
            # Before a record that nobody could sign.
            raise SignerUnavailable(f"the key of {authority} is not at hand")
        order = responder_order(issuer, describe_key(public_key), self._serial(), self._now())
        try:
            return await self._executor.execute(order, issuer)
        except AuthorityRetired as error:
            await self._authorities.refresh()
            raise SignerError(f"{authority} signs nothing any more") from error

    async def _issue(self, request: DeviceRequest | SessionRequest | ServiceRequest) -> Certificate:
        """From the active authority; once more, from the next one, if it stopped issuing before the record."""
        for _ in range(2):
            issuer = self._authorities.active(request.CA)
            order = await self._order(request, issuer)
            try:
                return await self._executor.execute(order, issuer)
            except AuthorityRetired:
                await self._authorities.refresh()
        raise AuthorityRetired(f"the active {request.CA} CA changes just now")

    async def _order(self, request: DeviceRequest | SessionRequest | ServiceRequest, issuer: Issuer) -> Order:
        """The order of a request, with a place in the authority's CRLs where a CRL may have to name it."""
        if isinstance(request, SessionRequest):
            return request.order(issuer, self._serial())
        place = await self._places.take(issuer.authority)
        return request.order(issuer, place, self._serial())

    def _future(self, not_after: datetime) -> datetime:
        if not_after.tzinfo is None:
            raise ValueRefused("`not_after` has no time zone")
        if not_after <= self._now() + timedelta(seconds=1):
            raise ValueRefused("`not_after` is over already")
        try:
            return not_after.astimezone(UTC)
        except OverflowError as error:
            raise ValueRefused("`not_after` is out of the calendar") from error

    def _serial(self) -> int:
        return make_serial(self._entropy(SERIAL_BYTES))
