"""Pure functions: build the certificate chain of a service from the issuer's answer and the current trust."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud.crypto.issued import is_issued_by, issuer_among
from cloud.crypto.validity import is_current
from cloud.mtls.identity import IdentityError
from cloud.mtls.peer import PeerTrust
from protocol.messages.sessions import Certificate

CROSSES_MAX = 4
"""Cross-certificates in a chain. Two roots that sign each other make two."""


def chain_to_pem(certificate: Certificate) -> bytes:
    """Return the chain of an issuer's answer as PEM, leaf first. Raises IdentityError."""
    try:
        loaded = [x509.load_der_x509_certificate(der) for der in certificate.certificate_chain]
    except ValueError as error:
        raise IdentityError("the issuer's answer is not a chain of certificates") from error
    return _to_pem(loaded)


def build_chain(leaf: x509.Certificate, cas: tuple[bytes, ...], trust: PeerTrust, now: datetime) -> bytes:
    """Return the chain that a listener sends, as PEM: the leaf, its issuing CA, and the cross-certificates above it.

    The issuing CA is from `trust`. From `cas` (DER), the CAs in the issuer's answer, only cross-certificates within their dates
    that a trusted root signed are taken. Otherwise a chain could lead a peer to a root that is no longer trusted. Roots
    are not included, because a peer that trusts a root has it.

    Raises:
        IdentityError: no trusted CA of services issued the leaf, or `cas` are not certificates.
    """
    issuing = issuer_among(leaf, trust.service_issuers)
    if issuing is None:
        raise IdentityError("the new certificate was not issued by a CA of services in the current trust")
    try:
        offered = [x509.load_der_x509_certificate(der) for der in cas]
        crosses = [ca for ca in offered if ca.subject != ca.issuer and is_current(ca, now)]
        crosses = [ca for ca in crosses if is_trusted_cross(ca, trust)]
    except ValueError as error:
        raise IdentityError("the issuer's answer is not a list of certificates") from error
    chain, below = [leaf, issuing], [issuing]
    while below and len(chain) < 2 + CROSSES_MAX:
        seen = {ca.subject for ca in chain}
        below = [ca for ca in crosses if ca.issuer not in seen and any(is_issued_by(one, ca) for one in below)]
        chain += below
    return _to_pem(chain[: 2 + CROSSES_MAX])


def is_trusted_cross(cross: x509.Certificate, trust: PeerTrust) -> bool:
    """Return True if a trusted root signed this cross-certificate, or if the trusted roots are not known."""
    return trust.roots is None or issuer_among(cross, trust.roots) is not None


def _to_pem(chain: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
