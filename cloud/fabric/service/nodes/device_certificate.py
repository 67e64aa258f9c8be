"""Pure functions: read a device certificate, and check whether it opens sessions now."""

from datetime import datetime
from functools import lru_cache

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from cloud.fabric.errors import CertificateRefused
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer, spiffe_of
from protocol.ids import EKU_DEVICE_ACCEPTED, IdError, NodeSpiffeId, parse_generation
from protocol.limits import CLOCK_SKEW

VERIFIED_MAX = 4096
"""Certificates whose verification is kept, in about 6 MB. A node opens several sessions with the same certificate."""
_DEVICE_USAGES = tuple([x509.ObjectIdentifier(usage)] for usage in EKU_DEVICE_ACCEPTED)


class Device(msgspec.Struct, frozen=True):
    """The contents of a device certificate. `spki` is its public key in DER."""

    spiffe: NodeSpiffeId
    generation: int
    spki: bytes
    not_before: datetime
    not_after: datetime
    issuer: str = ""
    """The key id of the CA that issued the certificate; empty if the issuer was not checked."""

    @property
    def issued_at(self) -> datetime:
        """When the certificate was issued. Breakwater dates a certificate back by CLOCK_SKEW."""
        return self.not_before + CLOCK_SKEW


def read_device_certificate(
    der: bytes, issuers: tuple[x509.Certificate, ...], trust_domain: str, now: datetime
) -> Device:
    """Verify a device certificate (DER) and read it. `issuers` are the trusted CAs for nodes.

    1 the certificate can be read; 2 one of `issuers` issued it and is within its dates (RFC 5280 section 6.1); 3 the
    certificate is within its dates; 4 its only extended key usage is one of `EKU_DEVICE_ACCEPTED`, so a
    session certificate is refused; 5 it has one SPIFFE id, of a node in our trust domain; 6 the subject names that node
    and a generation.
    The dates are checked at each call, also those of the CA. The other steps are checked once for the same arguments.
    Raises CertificateRefused.
    """
    device = _verified(der, tuple(ca for ca in issuers if _covers(ca, now)), trust_domain)
    if not device.not_before <= now <= device.not_after:
        raise CertificateRefused("the device certificate is not valid at this time")
    return device


@lru_cache(maxsize=VERIFIED_MAX)
def _verified(der: bytes, issuers: tuple[x509.Certificate, ...], trust_domain: str) -> Device:
    """Steps 1, 2 and 4 to 6. They depend on nothing but the arguments.

    A refusal is not kept, so strangers cannot displace the certificates of nodes. Raises CertificateRefused.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer = require_issuer(certificate, issuers)
    except PeerRefused as error:
        raise CertificateRefused(error.detail) from error
    except ValueError as error:
        raise CertificateRefused("the device certificate cannot be read") from error
    return msgspec.structs.replace(device_of(certificate, trust_domain), issuer=key_id_of(issuer))


def device_of(certificate: x509.Certificate, trust_domain: str) -> Device:
    """Read a device certificate: steps 4 to 6 of `read_device_certificate`. Checks neither issuer nor dates.

    Raises CertificateRefused.
    """
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if list(usages) not in _DEVICE_USAGES:
            raise CertificateRefused("this is not a device certificate (extended key usage)")
        spiffe = spiffe_of(certificate)
        if not isinstance(spiffe, NodeSpiffeId) or spiffe.trust_domain != trust_domain:
            raise CertificateRefused("the SPIFFE id does not name a node of this trust domain")
        names = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        numbers = [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
        if names != [spiffe.node] or len(numbers) != 1:
            raise CertificateRefused("the subject does not name the node and its generation")
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return Device(spiffe, parse_generation(numbers[0]), spki, *dates)
    except PeerRefused as error:
        raise CertificateRefused(error.detail) from error
    except (ValueError, IdError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise CertificateRefused("the device certificate cannot be read") from error


def _covers(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
