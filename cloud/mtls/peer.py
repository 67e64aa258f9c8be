"""Pure functions: read the peer of a request from its client certificate, and decide whether the peer is trusted.

Only this module reads the TLS entry in the ASGI scope. The listener makes the entry, once for each connection. A peer
is identified by its client certificate alone; this module reads no header. The certificate is parsed once for each
connection. Properties that can change while a connection is open are checked at every request: the dates, and through
`PeerChecks` whether the generation is open and whether the serial is revoked. OpenSSL has verified the chain and the
purpose in the handshake. This module adds one check that OpenSSL does not know: the issuer must be the CA of the class
that the SPIFFE path claims.
"""

from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.crypto.issued import issuer_among
from protocol.ids import (
    IdError,
    NodeId,
    NodeSpiffeId,
    ServiceSpiffeId,
    SpiffeId,
    TenantId,
    parse_generation,
    parse_spiffe,
)

TLS_EXTENSION = "tls"


class AnonymousPeer(msgspec.Struct, frozen=True):
    """A caller without a client certificate, or a caller of a route that does not read the certificate."""

    kind: Literal["anonymous"] = "anonymous"


class ServicePeer(msgspec.Struct, frozen=True):
    """Another service. `not_after` is the end of its certificate."""

    spiffe: ServiceSpiffeId
    serial: int
    not_after: datetime
    kind: Literal["service"] = "service"

    @property
    def name(self) -> str:
        """The name of the service."""
        return self.spiffe.name


class NodePeer(msgspec.Struct, frozen=True):
    """A node, identified by a session certificate of one generation. `not_before` is the start of the certificate."""

    spiffe: NodeSpiffeId
    generation: int
    serial: int
    not_after: datetime
    not_before: datetime
    kind: Literal["node"] = "node"

    @property
    def tenant(self) -> TenantId:
        """The tenant of the node."""
        return self.spiffe.tenant

    @property
    def node(self) -> NodeId:
        """The id of the node."""
        return self.spiffe.node


Peer = AnonymousPeer | ServicePeer | NodePeer
ANONYMOUS_PEER = AnonymousPeer()


class PeerRefused(Exception):
    """The certificate is not accepted. `detail` names the rule that it breaks."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class PeerClosed(PeerRefused):
    """The certificate is valid, but its generation is closed."""

    def __init__(self, peer: NodePeer) -> None:
        super().__init__("the generation of this certificate is closed")
        self.peer = peer


class PeerTrust(msgspec.Struct, frozen=True):
    """The trust domain, and the issuing CAs of peers' certificates by class.

    `roots` are the trusted roots, or None if they are not known.
    """

    trust_domain: str
    node_issuers: tuple[x509.Certificate, ...]
    service_issuers: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...] | None = None


class PeerChecks(Protocol):
    """Port: a service's knowledge about its peers. It is called on every request, so it must be quick."""

    def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> Awaitable[bool]:
        """Return True if this generation of the node is open."""

    def service_revoked(self, serial: int) -> Awaitable[bool]:
        """Return True if the serial of a service is revoked."""


class TlsSession:
    """The client certificate of one connection. The parsed peer is kept for the next requests."""

    __slots__ = ("_peer", "_trust", "_valid_from", "certificate_der")

    def __init__(self, certificate_der: bytes | None) -> None:
        self.certificate_der = certificate_der
        self._peer: ServicePeer | NodePeer | PeerRefused | None = None
        self._trust: PeerTrust | None = None
        self._valid_from: datetime | None = None

    def peer(self, trust: PeerTrust, now: datetime) -> Peer:
        """Return the peer; see `peer_of`."""
        if self.certificate_der is None:
            return ANONYMOUS_PEER
        if self._trust is not trust or self._peer is None:
            self._trust = trust
            try:
                certificate = x509.load_der_x509_certificate(self.certificate_der)
                self._valid_from = certificate.not_valid_before_utc
                self._peer = read_peer(certificate, trust)
            except PeerRefused as refused:
                self._peer = refused
            except ValueError as error:
                self._peer = PeerRefused(f"the certificate cannot be read: {error}")
        if isinstance(self._peer, PeerRefused):
            raise PeerRefused(self._peer.detail)
        if self._valid_from is None or now < self._valid_from:
            raise PeerRefused("the certificate is not valid yet")
        if now >= self._peer.not_after:
            raise PeerRefused("the certificate has expired")
        return self._peer


def peer_of(scope: Any, trust: PeerTrust, now: datetime) -> Peer:
    """Return the peer of a request, from the certificate of its connection.

    `scope` is the ASGI scope (or Litestar's typed view of it).

    Raises:
        PeerRefused: the certificate breaks a rule of `read_peer`, is not valid yet, or has expired.
    """
    session = (scope.get("extensions") or {}).get(TLS_EXTENSION)
    if not isinstance(session, TlsSession):
        return ANONYMOUS_PEER
    return session.peer(trust, now)


async def admit(peer: Peer, checks: PeerChecks) -> None:
    """Check with the service that the peer is still admitted.

    Raises:
        PeerClosed: the node's generation is closed.
        PeerRefused: the service's serial is revoked.
    """
    if isinstance(peer, NodePeer) and not await checks.generation_open(peer.tenant, peer.node, peer.generation):
        raise PeerClosed(peer)
    if isinstance(peer, ServicePeer) and await checks.service_revoked(peer.serial):
        raise PeerRefused("the certificate of this service is revoked")


def read_peer(certificate: x509.Certificate, trust: PeerTrust) -> ServicePeer | NodePeer:
    """Read a client certificate whose chain has been verified. The checks are:

    1. The certificate has exactly one URI SAN, a SPIFFE id of our trust domain (SPIFFE X.509-SVID section 2).
    2. It has an extended key usage with clientAuth (RFC 5280 section 4.2.1.12). A certificate without EKU is refused.
    3. An issuing CA of the class that the SPIFFE path claims has issued it directly.
    4. For a node: the subject has one CN, the node, and one serialNumber, the generation.

    Raises:
        PeerRefused: the detail names the broken rule.
    """
    spiffe = spiffe_of(certificate)
    if spiffe.trust_domain != trust.trust_domain:
        raise PeerRefused("the SPIFFE id belongs to another trust domain")
    require_usage(certificate, ExtendedKeyUsageOID.CLIENT_AUTH)
    if isinstance(spiffe, ServiceSpiffeId):
        require_issuer(certificate, trust.service_issuers)
        return ServicePeer(spiffe, certificate.serial_number, certificate.not_valid_after_utc)
    require_issuer(certificate, trust.node_issuers)
    if _subject(certificate, NameOID.COMMON_NAME) != spiffe.node:
        raise PeerRefused("the subject does not name the node")
    try:
        generation = parse_generation(_subject(certificate, NameOID.SERIAL_NUMBER))
    except IdError as error:
        raise PeerRefused(str(error)) from error
    dates = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    return NodePeer(spiffe, generation, certificate.serial_number, *dates)


def spiffe_of(certificate: x509.Certificate) -> SpiffeId:
    """Return the one SPIFFE id of a certificate. Raises PeerRefused."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise PeerRefused("the certificate has no subject alternative name") from error
    except (ValueError, x509.DuplicateExtension) as error:
        raise PeerRefused("the certificate's extensions cannot be read") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise PeerRefused(f"the certificate has {len(uris)} URI names, not one")
    try:
        return parse_spiffe(uris[0])
    except IdError as error:
        raise PeerRefused(str(error)) from error


def require_usage(certificate: x509.Certificate, usage: x509.ObjectIdentifier) -> None:
    """Check that the certificate has this extended key usage. Raises PeerRefused."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise PeerRefused("the certificate has no extended key usage") from error
    if usage not in usages:
        raise PeerRefused("the certificate is not for this use")


def require_issuer(certificate: x509.Certificate, issuers: tuple[x509.Certificate, ...]) -> x509.Certificate:
    """Return the CA of `issuers` that signed the certificate. Raises PeerRefused if there is none."""
    issuer = issuer_among(certificate, issuers)
    if issuer is None:
        raise PeerRefused("the certificate was not issued by the CA of its class")
    return issuer


def key_id_of(certificate: x509.Certificate) -> str:
    """Return the subject key id in lower-case hexadecimal. It names a CA, over all certificates of its key.

    RFC 5280 section 4.2.1.2. If the certificate has none, the id is the hash that method (1) of that section gives.
    """
    try:
        stated = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        stated = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return stated.digest.hex()


def _subject(certificate: x509.Certificate, name: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(name)
    if len(values) != 1:
        raise PeerRefused("the subject does not have exactly one CN and one serialNumber")
    return str(values[0].value)
