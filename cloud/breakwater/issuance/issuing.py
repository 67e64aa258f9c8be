"""What Breakwater does: opens and closes generations, issues, revokes. No HTTP, no SQL, no key material.

The order of an issuance is fixed: check the request, build, lint, record (durable), sign, store (durable), answer.
A crash leaves at most a record without a certificate, which is never signed later.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.audit import AuditEntries
from cloud.breakwater.authorities import Authorities
from cloud.breakwater.errors import (
    AuthorityRetired,
    CsrRefused,
    IssuanceLost,
    NotAdmitted,
    RenewedTooOften,
    SignerError,
    SignerUnavailable,
    StillRunning,
    ValueRefused,
)
from cloud.breakwater.issuance.requests import dns_of, names_of, node_key, node_order, request_key_of
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.pkix.csr import SERVICE_CURVES, RequestedKey, describe_key, open_csr
from cloud.breakwater.pkix.lint import lint
from cloud.breakwater.pkix.profiles import (
    SERIAL_BYTES,
    CaName,
    Distribution,
    Issuer,
    build,
    make_serial,
    want_device,
    want_responder,
    want_service,
    want_session,
)
from cloud.breakwater.revocation.crl_shards import Places
from cloud.breakwater.store import AuditRow, Order, Store, serial_text
from cloud.breakwater.store.issuance import IN_FLIGHT
from cloud.contracts.breakwater import (
    REASON_NUMBERS,
    CloseGeneration,
    CloseGenerations,
    IssueNodeCertificate,
    OpenGeneration,
    RevocationReason,
    SupersedeKeys,
)
from cloud.storage import StorageError
from protocol.faults import fault_point
from protocol.ids import SERVICE_NAMES, IdError, NodeId, NodeSpiffeId, ServiceSpiffeId, TenantId, parse_id
from protocol.limits import CLOCK_SKEW
from protocol.messages.sessions import Certificate

log = logging.getLogger("cascade.breakwater")

Now = Callable[[], datetime]
Entropy = Callable[[int], bytes]
Distribute = Callable[[str, str], Distribution]
"""Where the world asks about the certificates of an authority in a shard."""

GENERATION_MAX = 999_999_999
"""The certificate's subject holds nine digits (`protocol.ids.parse_generation`)."""
SIGN_SECONDS_MAX = 30.0
"""An issuance that takes longer is given up: half of `IN_FLIGHT`, after which others may call it an orphan."""
ELSEWHERE_SECONDS_MAX = 5.0
"""How long a repeat waits for another replica that is at work on the same request."""
ELSEWHERE_POLL_SECONDS = 0.05
RENEWALS_MAX = 100
"""Device certificates that a node may renew for itself in `RENEWALS_WINDOW`; an honest one does it once in weeks."""
RENEWALS_WINDOW = timedelta(hours=1)


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What an issuer is made of."""

    store: Store
    authorities: Authorities
    signer: Signer
    places: Places
    distribute: Distribute
    trust_domain: str
    now: Now
    entropy: Entropy
    entries: AuditEntries[AuditRow]
    metrics: IssuerMetrics


class Issuing:
    """The issuer over a store and a signer. Also the `PeerChecks` of its own listener."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.store
        self._authorities = parts.authorities
        self._signer = parts.signer
        self._places = parts.places
        self._distribute = parts.distribute
        self._trust_domain = parts.trust_domain
        self._now = parts.now
        self._entropy = parts.entropy
        self._entries = parts.entries
        self._metrics = parts.metrics
        self._running: dict[str, asyncio.Future[None]] = {}
        self._on_revocation: list[Callable[[], None]] = []

    def on_revocation(self, hook: Callable[[], None]) -> None:
        """Call `hook` after every decision that may have revoked something."""
        self._on_revocation.append(hook)

    def _revoked(self, kind: str, reason: RevocationReason) -> None:
        self._metrics.revoked.add(kind, reason)
        for hook in self._on_revocation:
            hook()

    async def recover(self) -> int:
        """At start, before the first request: give up what a crash left between record and certificate.

        On a database that others use too a young record may be theirs; the sweep takes it when it is not. Returns how
        many records became orphans.
        """
        return await self._orphan(IN_FLIGHT if self._store.issuance.shared else timedelta(0))

    async def sweep(self) -> int:
        """Give up every record that nobody can be at work on any more. Returns how many there were."""
        return await self._orphan(IN_FLIGHT)

    async def _orphan(self, age: timedelta) -> int:
        with fault_point("breakwater.certificate.orphan"):
            serials = await self._store.issuance.orphan_stale(self._now(), age)
        for serial in serials:
            log.warning("orphaned", extra={"serial": serial})
        if serials:
            self._metrics.orphaned.add(by=len(serials))
        return len(serials)

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """Whether a node of this generation is still to be heard."""
        return await self._store.generations.is_open(tenant, node, generation)

    async def service_revoked(self, serial: int) -> bool:
        """Whether a service's certificate is revoked."""
        return await self._store.issuance.is_revoked(serial)

    async def ready(self) -> None:
        """Raises when the database or a CA cannot be used."""
        await self._store.issuance.ping()
        self._authorities.active("nodes")
        self._authorities.active("services")

    async def open_generation(self, caller: str, body: OpenGeneration) -> None:
        """Open a generation; idempotent. Raises Conflict, ValueRefused."""
        entry = self._node_entry(caller, "generation.open", body.tenant, body.node, body.generation)
        with fault_point("breakwater.generation.open"):
            await self._store.generations.open(entry)

    async def close_generations(self, caller: str, body: CloseGenerations) -> int:
        """Close every generation up to `up_to`, for ever; idempotent. Raises Conflict, ValueRefused."""
        entry = self._node_entry(caller, "generation.close", body.tenant, body.node, body.up_to, body.reason)
        with fault_point("breakwater.generation.close"):
            revoked = await self._store.generations.close_up_to(entry, REASON_NUMBERS[body.reason])
        self._revoked("generation", body.reason)
        return revoked

    async def close_generation(self, caller: str, body: CloseGeneration) -> int:
        """Close one generation for ever, and none before it; idempotent. Raises Conflict, ValueRefused."""
        entry = self._node_entry(caller, "generation.close_one", body.tenant, body.node, body.generation, body.reason)
        with fault_point("breakwater.generation.close_one"):
            revoked = await self._store.generations.close_one(entry, REASON_NUMBERS[body.reason])
        self._revoked("generation", body.reason)
        return revoked

    async def supersede_keys(self, caller: str, body: SupersedeKeys) -> int:
        """Revoke what a generation has for the keys before this one; idempotent. Raises Conflict, ValueRefused."""
        entry = self._node_entry(caller, "generation.rekey", body.tenant, body.node, body.generation, "superseded")
        with fault_point("breakwater.keys.supersede"):
            revoked = await self._store.generations.supersede_keys(
                entry, body.spki_sha256, REASON_NUMBERS["superseded"]
            )
        self._revoked("key", "superseded")
        return revoked

    async def revoke(self, caller: str, serial: int, reason: RevocationReason) -> bool:
        """Revoke a service's certificate, for ever; False if it was revoked before. Raises NotAdmitted, ValueRefused."""
        text = serial_text(serial)
        entry = self._entry(caller, "certificate.revoke", text, reason)
        with fault_point("breakwater.certificate.revoke"):
            revoked = await self._store.revoking.revoke(text, REASON_NUMBERS[reason], entry.at, entry)
        if revoked:
            self._revoked("service", reason)
        return revoked

    async def revoke_service(self, caller: str, name: str, reason: RevocationReason) -> tuple[str, ...]:
        """Revoke every certificate of a service; returns the serials (hex) that were not yet. Raises ValueRefused."""
        if name not in SERVICE_NAMES:
            raise ValueRefused("there is no service of this name")
        entry = self._entry(caller, "service.revoke", name, reason)
        with fault_point("breakwater.service.revoke"):
            serials = await self._store.revoking.revoke_service(name, REASON_NUMBERS[reason], entry.at, entry)
        if serials:
            self._revoked("service", reason)
        return serials

    async def issue_device(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """A device certificate until `not_after`. Raises CsrRefused, GenerationClosed, Conflict, ValueRefused."""
        spiffe = self._node(body.tenant, body.node, body.generation)
        key = node_key(body.csr, spiffe, body.generation)
        return await self._device(caller, body.request, spiffe, body.generation, key, self._future(body.not_after))

    async def issue_session(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """A session certificate, never past `not_after` of the device certificate. Raises as `issue_device`."""
        spiffe = self._node(body.tenant, body.node, body.generation)
        key = node_key(body.csr, spiffe, body.generation)
        now, end, generation = self._now(), self._future(body.not_after), body.generation

        def order(issuer: Issuer, _shard: str) -> Order:
            wanted = want_session(spiffe, generation, key, self._serial(), now, end, issuer)
            return node_order(caller, body.request, spiffe, wanted, issuer, "")

        return await self._issue("nodes", order, sharded=False)

    async def renew_device(self, spiffe: NodeSpiffeId, generation: int, csr_der: bytes, request_id: str) -> Certificate:
        """A new device certificate for the same key, for as long as the one before was made for.

        Raises:
            CsrRefused: also when the key is not the one of this generation.
            NotAdmitted: the generation has no device certificate.
            RenewedTooOften: it has made `RENEWALS_MAX` in `RENEWALS_WINDOW`; a repeat of one of them is answered.
        """
        key = node_key(csr_der, spiffe, generation)
        device = await self._store.issuance.device(spiffe.node, generation)
        if device is None:
            raise NotAdmitted("this generation has no device certificate to renew")
        if device.spki_sha256 != key.spki_sha256:
            raise CsrRefused("the key is not the key of this generation's device certificate")
        not_after = self._now() - CLOCK_SKEW + (device.not_after - device.not_before)
        caller = f"tenant/{spiffe.tenant}/node/{spiffe.node}"
        mine = request_key_of(caller, request_id)
        # One at a time, so that requests sent together are counted too.
        async with self._turn(f"renewals/{spiffe.node}.{generation}"):
            since = self._now() - RENEWALS_WINDOW
            others = await self._store.issuance.renewals(caller, spiffe.node, generation, since, mine, RENEWALS_MAX)
            if others >= RENEWALS_MAX:
                raise RenewedTooOften(RENEWALS_WINDOW)
            return await self._device(caller, request_id, spiffe, generation, key, not_after)

    async def _device(
        self, caller: str, request: str, spiffe: NodeSpiffeId, generation: int, key: RequestedKey, end: datetime
    ) -> Certificate:
        now = self._now()

        def order(issuer: Issuer, shard: str) -> Order:
            place = self._distribute(issuer.authority, shard)
            wanted = want_device(spiffe, generation, key, self._serial(), now, end, issuer, place)
            return node_order(caller, request, spiffe, wanted, issuer, shard)

        return await self._issue("nodes", order)

    async def issue_service(
        self, name: str, csr_der: bytes, request_id: str, caller: str, shown: int = 0
    ) -> Certificate:
        """A certificate for the service `name`, with the host names recorded for it.

        `shown` is the serial of the certificate that it asks with: revoked while the request was on its way, it gets
        nothing, or a thief's half-sent request would outlive the revocation. Raises CsrRefused, NotAdmitted.
        """
        hosts = await self._store.issuance.hosts(name)
        if not hosts:
            raise NotAdmitted(f"no host names are recorded for the service {name}")
        spiffe = ServiceSpiffeId(self._trust_domain, name)
        dns, addresses = dns_of(hosts), tuple(ip_address(host.value) for host in hosts if host.kind == "ip")
        names = names_of(str(spiffe), *map(x509.DNSName, dns), *map(x509.IPAddress, addresses))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        key = open_csr(csr_der, SERVICE_CURVES, subject=subject, names=names)
        now = self._now()

        def order(issuer: Issuer, shard: str) -> Order:
            place = self._distribute(issuer.authority, shard)
            wanted = want_service(spiffe, dns, addresses, key, self._serial(), now, issuer, place)
            return Order(
                request_key=request_key_of(caller, request_id),
                caller=caller,
                wanted=wanted,
                authority=issuer.authority,
                shard=shard,
                service=name,
                shown=serial_text(shown) if shown else "",
            )

        return await self._issue("services", order)

    async def issue_responder(self, authority: str, public_key: ec.EllipticCurvePublicKey) -> Certificate:
        """A delegated OCSP responder's certificate, by the very authority that it answers for. Raises SignerError."""
        issuer = self._authorities.find(authority)
        if issuer is None:
            raise SignerError(f"there is no authority {authority}")
        if not self._signer.holds(authority):
            raise SignerUnavailable(f"the key of {authority} is not at hand")  # before a record that nobody could sign
        key = describe_key(public_key)
        caller = "service/breakwater"
        order = Order(
            request_key=request_key_of(caller, f"responder-{authority}-{key.spki_sha256}"),
            caller=caller,
            wanted=want_responder(key, self._serial(), self._now(), issuer),
            authority=authority,
        )
        try:
            return await self._carry_out(order, issuer)
        except AuthorityRetired as error:
            await self._authorities.refresh()
            raise SignerError(f"{authority} signs nothing any more") from error

    async def _issue(self, ca: CaName, make: Callable[[Issuer, str], Order], *, sharded: bool = True) -> Certificate:
        """From the active authority; once more from the next one if it stopped being that in between."""
        for _ in range(2):
            issuer = self._authorities.active(ca)
            shard = await self._places.take(issuer.authority) if sharded else ""
            try:
                return await self._carry_out(make(issuer, shard), issuer)
            except AuthorityRetired:
                await self._authorities.refresh()
        raise AuthorityRetired(f"the active {ca} CA changes just now")

    async def _carry_out(self, order: Order, issuer: Issuer) -> Certificate:
        wanted = order.wanted
        async with self._turn(order.request_key):
            linted = lint(build(wanted, issuer), wanted, issuer)
            stored = await self._record(order, linted.tbs)
            if stored is not None:
                self._metrics.repeated.add(wanted.profile)
                return stored
            try:
                async with asyncio.timeout(SIGN_SECONDS_MAX):
                    issued = await self._signer.sign(linted)
                    with fault_point("breakwater.certificate.store"):
                        kept = await self._store.issuance.keep(order, issued)
            except BaseException as error:  # a cancelled or failed issuance must not wait for the sweep
                await self._give_up(order)
                if isinstance(error, TimeoutError):
                    raise SignerUnavailable("the signature took too long") from error
                raise
            if not kept:
                raise IssuanceLost("the generation was closed, or the record given up, while it was signed")
        self._metrics.issued.add(wanted.profile, order.authority)
        return Certificate((issued, *self._authorities.chain_above(issuer)))

    async def _record(self, order: Order, tbs: bytes) -> Certificate | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ELSEWHERE_SECONDS_MAX
        while True:
            try:
                with fault_point("breakwater.certificate.record"):
                    stored = await self._store.issuance.record(order, tbs, self._now())
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
                if await self._store.issuance.orphan(order, self._now()):
                    self._metrics.orphaned.add()
        except StorageError as error:
            log.error("left to the sweep", extra={"serial": serial_text(order.wanted.serial), "error": str(error)})

    @asynccontextmanager
    async def _turn(self, request_key: str) -> AsyncIterator[None]:
        """One issuance of a request at a time, so that a record without a certificate is nobody's work in progress."""
        while (running := self._running.get(request_key)) is not None:
            await asyncio.wait([running])
        mine = self._running[request_key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._running[request_key]
            mine.set_result(None)

    def _entry(self, caller: str, action: str, what: str, detail: str = "") -> AuditRow:
        return self._entries.make(caller, action, what, detail=detail)

    def _node_entry(
        self, caller: str, action: str, tenant: str, node: str, generation: int, detail: str = ""
    ) -> AuditRow:
        self._node(tenant, node, generation)
        entry = self._entry(caller, action, f"{node}.{generation}", detail)
        return msgspec.structs.replace(entry, tenant=tenant, node=node, generation=generation)

    def _node(self, tenant: str, node: str, generation: int) -> NodeSpiffeId:
        try:
            spiffe = NodeSpiffeId(self._trust_domain, TenantId(parse_id("ten", tenant)), NodeId(parse_id("node", node)))
        except IdError as error:
            raise ValueRefused(str(error)) from error
        if not 1 <= generation <= GENERATION_MAX:
            raise ValueRefused(f"a generation is a number from 1 to {GENERATION_MAX}")
        return spiffe

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


__all__ = ["IN_FLIGHT", "Entropy", "Issuing", "Now", "Parts", "RequestedKey"]
