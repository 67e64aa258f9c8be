"""Values and pure functions: parsed requests for certificates, and the orders that an authority carries out.

Rule: Tenant, node, generation and host names come from the caller. Only the key comes from the CSR.
"""

import re
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar

import msgspec
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.breakwater.errors import ValueRefused
from cloud.breakwater.pkix.csr import NODE_CURVES, SERVICE_CURVES, RequestedKey, open_csr
from cloud.breakwater.pkix.profiles import (
    CaName,
    Issuer,
    Wanted,
    want_device,
    want_responder,
    want_service,
    want_session,
)
from cloud.breakwater.revocation.crl_shards import Place
from cloud.breakwater.store.issuance import Order, ServiceHostName
from protocol.ids import EKU_DEVICE, NodeSpiffeId, ServiceSpiffeId

DEVICE_USAGE = x509.ObjectIdentifier(EKU_DEVICE)
"""The extended key usage of a device certificate. A CSR may repeat it."""
SESSION_USAGE = ExtendedKeyUsageOID.CLIENT_AUTH
"""The extended key usage of a session certificate."""
SERVICE_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""The extended key usages of a service certificate."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class NodeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the requests for a node's certificates. `at` is the time of the request, `not_after` the latest end."""

    CA: ClassVar[CaName] = "nodes"
    request_key: str
    caller: str
    spiffe: NodeSpiffeId
    generation: int
    key: RequestedKey
    at: datetime
    not_after: datetime

    def _order(self, wanted: Wanted, issuer: Issuer, shard: str = "") -> Order:
        return Order(
            request_key=self.request_key,
            caller=self.caller,
            wanted=wanted,
            authority=issuer.authority,
            shard=shard,
            tenant=self.spiffe.tenant,
            node=self.spiffe.node,
        )


class DeviceRequest(NodeRequest, frozen=True, kw_only=True):
    """A request for a device certificate that ends at `not_after`."""

    def order(self, issuer: Issuer, place: Place, serial: int) -> Order:
        """Make the order for an authority and a place in its CRL shards."""
        wanted = want_device(
            self.spiffe, self.generation, self.key, serial, self.at, self.not_after, issuer, place.distribution
        )
        return self._order(wanted, issuer, place.shard)


class SessionRequest(NodeRequest, frozen=True, kw_only=True):
    """A request for a session certificate. `not_after` is the end of the device certificate. It is in no CRL shard."""

    def order(self, issuer: Issuer, serial: int) -> Order:
        """Make the order for an authority."""
        wanted = want_session(self.spiffe, self.generation, self.key, serial, self.at, self.not_after, issuer)
        return self._order(wanted, issuer)


class ServiceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a service certificate with the service's recorded host names.

    `shown` is the serial (hex) of the certificate that authenticated the request; it is empty if there was none.
    """

    CA: ClassVar[CaName] = "services"
    request_key: str
    caller: str
    spiffe: ServiceSpiffeId
    dns_names: tuple[str, ...]
    addresses: tuple[IPv4Address | IPv6Address, ...]
    key: RequestedKey
    at: datetime
    shown: str = ""

    def order(self, issuer: Issuer, place: Place, serial: int) -> Order:
        """Make the order for an authority and a place in its CRL shards."""
        where = place.distribution
        return Order(
            request_key=self.request_key,
            caller=self.caller,
            wanted=want_service(self.spiffe, self.dns_names, self.addresses, self.key, serial, self.at, issuer, where),
            authority=issuer.authority,
            shard=place.shard,
            service=self.spiffe.name,
            shown=self.shown,
        )


def responder_order(issuer: Issuer, key: RequestedKey, serial: int, now: datetime) -> Order:
    """Make the order for a delegated OCSP responder. `issuer` is the authority that the responder answers for."""
    caller = "service/breakwater"
    return Order(
        request_key=request_key_of(caller, f"responder-{issuer.authority}-{key.spki_sha256}"),
        caller=caller,
        wanted=want_responder(key, serial, now, issuer),
        authority=issuer.authority,
    )


def request_key_of(caller: str, request: str) -> str:
    """Return the permanent key of a caller's request. Raises ValueRefused for an invalid request id."""
    if not _REQUEST_ID.fullmatch(request):
        raise ValueRefused("`request` is 1 to 128 letters, digits or _ . : -")
    return f"{caller}:{request}"


def node_key(csr_der: bytes, spiffe: NodeSpiffeId, generation: int, usage: x509.ObjectIdentifier) -> RequestedKey:
    """Verify a node's CSR (DER) and return its key. `usage` is `DEVICE_USAGE` or `SESSION_USAGE`. Raises CsrRefused."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, spiffe.node),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(generation)),
        ]
    )
    return open_csr(csr_der, NODE_CURVES, subject=subject, names=_names(str(spiffe)), usages=(usage,))


class ServiceHosts(msgspec.Struct, frozen=True):
    """The recorded host names of a service: DNS names and IP addresses."""

    dns_names: tuple[str, ...]
    addresses: tuple[IPv4Address | IPv6Address, ...]


def hosts_of(recorded: tuple[ServiceHostName, ...]) -> ServiceHosts:
    """Split recorded host names into DNS names and IP addresses, each in order."""
    return ServiceHosts(
        tuple(host.value for host in recorded if host.kind == "dns"),
        tuple(ip_address(host.value) for host in recorded if host.kind == "ip"),
    )


def service_key(csr_der: bytes, spiffe: ServiceSpiffeId, hosts: ServiceHosts) -> RequestedKey:
    """Verify a service's CSR (DER) and return its key. Raises CsrRefused."""
    names = _names(str(spiffe), *map(x509.DNSName, hosts.dns_names), *map(x509.IPAddress, hosts.addresses))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe.name)])
    return open_csr(csr_der, SERVICE_CURVES, subject=subject, names=names, usages=SERVICE_USAGES)


def _names(uri: str, *hosts: x509.GeneralName) -> x509.SubjectAlternativeName:
    """Return a subjectAltName with a SPIFFE id and host names."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), *hosts])
