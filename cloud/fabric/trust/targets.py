"""The content of the three top-level targets, from values. Pure; `protocol.trust` has their form.

It refuses what no node could use, since targets are signed offline and a blunder would be vouched for: a key under
another key's name, an unreadable certificate, a URL with a path.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.encoding import json_encode
from protocol.envelope import VerificationKey, key_id
from protocol.ids import parse_trust_domain
from protocol.trust import (
    TARGET_SERVICES,
    TARGET_SIGNING_KEYS,
    TARGET_X509_BUNDLE,
    ServiceUrls,
    SigningKeys,
    X509Bundle,
)

FORMAT = 1


class TargetsError(ValueError):
    """The content cannot be published: no node could use it."""


def build_targets(
    *,
    keys: Sequence[VerificationKey],
    trust_domain: str,
    roots: Sequence[bytes],
    node_issuers: Sequence[bytes],
    service_issuers: Sequence[bytes],
    fabric_url: str,
    breakwater_url: str,
) -> dict[str, bytes]:
    """The three targets by name. Certificates are DER; URLs read `https://host:port`.

    Raises TargetsError; IdError for a malformed trust domain.
    """
    return {
        TARGET_SIGNING_KEYS: json_encode(SigningKeys(format=FORMAT, keys=_checked_keys(keys))),
        TARGET_X509_BUNDLE: json_encode(
            X509Bundle(
                format=FORMAT,
                trust_domain=parse_trust_domain(trust_domain),
                roots=_checked_certificates(roots),
                node_issuers=_checked_certificates(node_issuers),
                service_issuers=_checked_certificates(service_issuers),
            )
        ),
        TARGET_SERVICES: json_encode(
            ServiceUrls(format=FORMAT, fabric=_checked_url(fabric_url), breakwater=_checked_url(breakwater_url))
        ),
    }


def _checked_keys(keys: Sequence[VerificationKey]) -> tuple[VerificationKey, ...]:
    if not keys or len({key.kid for key in keys}) != len(keys):
        raise TargetsError("signing keys: at least one, each once")
    for key in keys:
        try:
            public_key = serialization.load_der_public_key(key.public_key_der)
        except ValueError as error:
            raise TargetsError(f"the signing key {key.kid} cannot be read") from error
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
            raise TargetsError(f"the signing key {key.kid} is not a P-256 key")
        if key.kid != key_id(public_key):
            raise TargetsError(f"the signing key {key.kid} does not bear its own name")
        if not key.typs or key.not_before >= key.not_after:
            raise TargetsError(f"the signing key {key.kid} may sign nothing")
    return tuple(keys)


def _checked_certificates(certificates: Sequence[bytes]) -> tuple[bytes, ...]:
    if not certificates:
        raise TargetsError("a bundle names at least one certificate a class")
    for der in certificates:
        try:
            x509.load_der_x509_certificate(der)
        except ValueError as error:
            raise TargetsError("a certificate of the bundle cannot be read") from error
    return tuple(certificates)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    try:
        complete = bool(parts.hostname) and parts.port is not None
    except ValueError as error:
        raise TargetsError(f"the port of {url} is not a number") from error
    if not complete or parts.scheme != "https" or url != f"https://{parts.netloc}" or "@" in url:
        raise TargetsError(f"a service URL reads https://host:port, not {url}")
    return url
