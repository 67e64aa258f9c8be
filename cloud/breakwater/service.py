"""What Breakwater does: opens and closes generations, and issues. No HTTP, no SQL, no key material.

The order of an issuance is fixed: check the request, build, lint, record (durable), sign, store (durable), answer.
A crash leaves at most a record without a certificate, which is never signed later.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cloud.breakwater.csr import NODE_CURVES, SERVICE_CURVES, RequestedKey, open_csr
from cloud.breakwater.errors import CsrRefused, IssuanceLost, NotAdmitted, ValueRefused
from cloud.breakwater.lint import lint
from cloud.breakwater.profiles import (
    SERIAL_BYTES,
    CaName,
    Wanted,
    build,
    make_serial,
    want_device,
    want_service,
    want_session,
)
from cloud.breakwater.signer import Signer
from cloud.breakwater.store import AuditEntry, Order, Store
from cloud.issuing import (
    CloseGeneration,
    CloseGenerations,
    IssueNodeCertificate,
    IssueServiceCertificate,
    OpenGeneration,
)
from protocol.faults import fault_point
from protocol.ids import IdError, NodeId, NodeSpiffeId, ServiceSpiffeId, TenantId, make_id, parse_id
from protocol.limits import CLOCK_SKEW
from protocol.sessions import Certificate, RenewDevice

log = logging.getLogger("cascade.breakwater")

Now = Callable[[], datetime]
Entropy = Callable[[int], bytes]

GENERATION_MAX = 999_999_999
"""The certificate's subject holds nine digits (`protocol.ids.parse_generation`)."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Issuing:
    """The issuer over a store and a signer. Also the `PeerChecks` of its own listener."""

    def __init__(self, store: Store, signer: Signer, trust_domain: str, now: Now, entropy: Entropy) -> None:
        self._store = store
        self._signer = signer
        self._trust_domain = trust_domain
        self._now = now
        self._entropy = entropy
        self._running: dict[str, asyncio.Future[None]] = {}

    async def recover(self) -> int:
        """At start, before the first request: give up what a crash left between record and certificate.

        Returns how many records became orphans.
        """
        with fault_point("breakwater.certificate.orphan"):
            serials = await self._store.orphan_all(self._now())
        for serial in serials:
            log.warning("orphaned", extra={"serial": serial})
        return len(serials)

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        """Whether a node of this generation is still to be heard."""
        return await self._store.is_open(tenant, node, generation)

    async def service_revoked(self, serial: int) -> bool:
        """Whether a service's certificate is revoked."""
        return await self._store.is_revoked(serial)

    async def revoked_services(self) -> tuple[str, ...]:
        """Serials of revoked service certificates that have not expired."""
        return await self._store.revoked_services(self._now())

    async def ready(self) -> None:
        """Raises when the database or a CA cannot be used."""
        await self._store.ping()
        self._signer.issuer("nodes")
        self._signer.issuer("services")

    async def open_generation(self, caller: str, body: OpenGeneration) -> None:
        """Open a generation; idempotent. Raises Conflict, ValueRefused."""
        entry = self._entry(caller, "generation.open", body.tenant, body.node, body.generation)
        with fault_point("breakwater.generation.open"):
            await self._store.open_generation(entry)

    async def close_generations(self, caller: str, body: CloseGenerations) -> int:
        """Close every generation up to `up_to`, for ever; idempotent. Raises Conflict, ValueRefused."""
        entry = self._entry(caller, "generation.close", body.tenant, body.node, body.up_to)
        with fault_point("breakwater.generation.close"):
            return await self._store.close_generations(entry)

    async def close_generation(self, caller: str, body: CloseGeneration) -> int:
        """Close one generation for ever, and none before it; idempotent. Raises Conflict, ValueRefused."""
        entry = self._entry(caller, "generation.close_one", body.tenant, body.node, body.generation)
        with fault_point("breakwater.generation.close_one"):
            return await self._store.close_generation(entry)

    async def issue_device(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """A device certificate until `not_after`. Raises CsrRefused, GenerationClosed, Conflict, ValueRefused."""
        spiffe = self._node(body.tenant, body.node, body.generation)
        key = open_csr(body.csr, NODE_CURVES)
        now, not_after = self._now(), self._future(body.not_after)
        issuer = self._signer.issuer("nodes")
        wanted = want_device(spiffe, body.generation, key, self._serial(), now, not_after, issuer)
        return await self._issue("nodes", self._order(caller, body.request, wanted), now)

    async def issue_session(self, caller: str, body: IssueNodeCertificate) -> Certificate:
        """A session certificate, never past `not_after` of the device certificate. Raises as `issue_device`."""
        spiffe = self._node(body.tenant, body.node, body.generation)
        key = open_csr(body.csr, NODE_CURVES)
        now, device_not_after = self._now(), self._future(body.not_after)
        issuer = self._signer.issuer("nodes")
        wanted = want_session(spiffe, body.generation, key, self._serial(), now, device_not_after, issuer)
        return await self._issue("nodes", self._order(caller, body.request, wanted), now)

    async def renew_device(self, spiffe: NodeSpiffeId, generation: int, body: RenewDevice) -> Certificate:
        """A new device certificate for the same key, for as long as the one before was made for.

        Raises:
            CsrRefused: also when the key is not the one of this generation.
            NotAdmitted: the generation has no device certificate.
        """
        key = open_csr(body.csr, NODE_CURVES)
        device = await self._store.device(spiffe.node, generation)
        if device is None:
            raise NotAdmitted("this generation has no device certificate to renew")
        if device.spki_sha256 != key.spki_sha256:
            raise CsrRefused("the key is not the key of this generation's device certificate")
        now = self._now()
        not_after = now - CLOCK_SKEW + (device.not_after - device.not_before)
        issuer = self._signer.issuer("nodes")
        wanted = want_device(spiffe, generation, key, self._serial(), now, not_after, issuer)
        caller = f"tenant/{spiffe.tenant}/node/{spiffe.node}"
        return await self._issue("nodes", self._order(caller, body.request, wanted), now)

    async def issue_service(self, name: str, body: IssueServiceCertificate) -> Certificate:
        """A certificate for the service `name`, with the host names recorded for it. Raises CsrRefused, NotAdmitted."""
        key = open_csr(body.csr, SERVICE_CURVES)
        hosts = await self._store.hosts(name)
        if not hosts:
            raise NotAdmitted(f"no host names are recorded for the service {name}")
        now = self._now()
        wanted = want_service(
            ServiceSpiffeId(self._trust_domain, name),
            tuple(host.value for host in hosts if host.kind == "dns"),
            tuple(ip_address(host.value) for host in hosts if host.kind == "ip"),
            key,
            self._serial(),
            now,
            self._signer.issuer("services"),
        )
        return await self._issue("services", self._order(f"service/{name}", body.request, wanted), now)

    async def _issue(self, ca: CaName, order: Order, now: datetime) -> Certificate:
        issuer = self._signer.issuer(ca)
        async with self._turn(order.request_key):
            linted = lint(build(order.wanted, issuer), order.wanted, issuer)
            with fault_point("breakwater.certificate.record"):
                issued = await self._store.record(order, linted.tbs, now)
            if issued is None:
                issued = await self._signer.sign(linted)
                with fault_point("breakwater.certificate.store"):
                    kept = await self._store.keep(order.wanted.serial, issued)
                if not kept:
                    raise IssuanceLost("the generation was closed, or the record given up, while it was signed")
        return Certificate((issued, issuer.certificate_der))

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

    def _order(self, caller: str, request: str, wanted: Wanted) -> Order:
        if not _REQUEST_ID.fullmatch(request):
            raise ValueRefused("`request` is 1 to 128 letters, digits or _ . : -")
        spiffe = wanted.spiffe
        node = spiffe if isinstance(spiffe, NodeSpiffeId) else None
        return Order(
            request_key=f"{caller}:{request}",
            caller=caller,
            tenant="" if node is None else node.tenant,
            node="" if node is None else node.node,
            service="" if node is not None else wanted.common_name,
            wanted=wanted,
        )

    def _entry(self, caller: str, action: str, tenant: str, node: str, generation: int) -> AuditEntry:
        self._node(tenant, node, generation)
        now = self._now()
        unique = make_id("aud", int(now.timestamp() * 1000), self._entropy(10))
        return AuditEntry(unique, now, caller, action, tenant, node, generation)

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


__all__ = ["Entropy", "Issuing", "Now", "RequestedKey"]
