"""Pure: requests for certificates, parsed, and the orders that are made of them for one authority.

Rule: tenant, node, generation and host names come from the caller, never out of a CSR; of the CSR comes the key.
"""

import re
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

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
from protocol.ids import NodeSpiffeId, ServiceSpiffeId

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class NodeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the two certificates of a node have in common. `at` is when it was asked for."""

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
    """A device certificate until `not_after`."""

    def order(self, issuer: Issuer, place: Place, serial: int) -> Order:
        """The order for one authority and one place in its CRLs."""
        wanted = want_device(
            self.spiffe, self.generation, self.key, serial, self.at, self.not_after, issuer, place.distribution
        )
        return self._order(wanted, issuer, place.shard)


class SessionRequest(NodeRequest, frozen=True, kw_only=True):
    """A session certificate, never past `not_after`: the end of the device certificate. No CRL will ever name it."""

    def order(self, issuer: Issuer, serial: int) -> Order:
        """The order for one authority."""
        wanted = want_session(self.spiffe, self.generation, self.key, serial, self.at, self.not_after, issuer)
        return self._order(wanted, issuer)


class ServiceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A service's certificate, for the host names recorded for it.

    `shown` is the serial (hex) of the certificate that it was asked with; empty when there was none.
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
        """The order for one authority and one place in its CRLs."""
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
    """The order for a delegated OCSP responder, by the very authority that it answers for."""
    caller = "service/breakwater"
    return Order(
        request_key=request_key_of(caller, f"responder-{issuer.authority}-{key.spki_sha256}"),
        caller=caller,
        wanted=want_responder(key, serial, now, issuer),
        authority=issuer.authority,
    )


def request_key_of(caller: str, request: str) -> str:
    """How a caller's request is known for ever. Raises ValueRefused."""
    if not _REQUEST_ID.fullmatch(request):
        raise ValueRefused("`request` is 1 to 128 letters, digits or _ . : -")
    return f"{caller}:{request}"


def node_key(csr_der: bytes, spiffe: NodeSpiffeId, generation: int) -> RequestedKey:
    """The key in a node's CSR. Raises CsrRefused."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, spiffe.node),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(generation)),
        ]
    )
    return open_csr(csr_der, NODE_CURVES, subject=subject, names=_names(str(spiffe)))


class ServiceHosts(msgspec.Struct, frozen=True):
    """The host names recorded for a service, by kind."""

    dns_names: tuple[str, ...]
    addresses: tuple[IPv4Address | IPv6Address, ...]


def hosts_of(recorded: tuple[ServiceHostName, ...]) -> ServiceHosts:
    """Recorded host names by kind, each in order."""
    return ServiceHosts(
        tuple(host.value for host in recorded if host.kind == "dns"),
        tuple(ip_address(host.value) for host in recorded if host.kind == "ip"),
    )


def service_key(csr_der: bytes, spiffe: ServiceSpiffeId, hosts: ServiceHosts) -> RequestedKey:
    """The key in a service's CSR. Raises CsrRefused."""
    names = _names(str(spiffe), *map(x509.DNSName, hosts.dns_names), *map(x509.IPAddress, hosts.addresses))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe.name)])
    return open_csr(csr_der, SERVICE_CURVES, subject=subject, names=names)


def _names(uri: str, *hosts: x509.GeneralName) -> x509.SubjectAlternativeName:
    """The subject alternative names of a profile."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), *hosts])
