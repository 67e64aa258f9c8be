"""Pure functions: make, read and check the three target files. `protocol.signed.trust` has their format.

Content that no node could use is refused, because a mistake in signed targets can be corrected only with the offline
keys. Examples: a key under the name of another key, an unreadable certificate, a URL with a path.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.issued import issuer_among
from protocol.encoding import json_decode, json_encode
from protocol.ids import IdError, parse_trust_domain
from protocol.signed.envelope import VerificationKey, key_id
from protocol.signed.trust import (
    TARGET_SERVICES,
    TARGET_SIGNING_KEYS,
    TARGET_X509_BUNDLE,
    ServiceUrls,
    SigningKeys,
    X509Bundle,
)
from protocol.urls import UrlError, check_base_url

FORMAT = 1
T = TypeVar("T", SigningKeys, X509Bundle, ServiceUrls)


class TargetsError(ValueError):
    """Nodes could not use the content."""


class Content(msgspec.Struct, frozen=True):
    """The contents of the three targets."""

    keys: SigningKeys
    bundle: X509Bundle
    urls: ServiceUrls

    def encoded(self) -> dict[str, bytes]:
        """The three target files by name. Raises TargetsError and IdError, as `build_targets`."""
        return build_targets(
            keys=self.keys.keys,
            trust_domain=self.bundle.trust_domain,
            roots=self.bundle.roots,
            node_issuers=self.bundle.node_issuers,
            service_issuers=self.bundle.service_issuers,
            fabric_url=self.urls.fabric,
            breakwater_url=self.urls.breakwater,
            repository_url=self.urls.repository,
        )


def read_content(files: Mapping[str, bytes]) -> Content:
    """Read the targets from their files, keyed by name. Raises TargetsError."""
    return Content(
        keys=_read(files, TARGET_SIGNING_KEYS, SigningKeys),
        bundle=_read(files, TARGET_X509_BUNDLE, X509Bundle),
        urls=_read(files, TARGET_SERVICES, ServiceUrls),
    )


def _read(files: Mapping[str, bytes], name: str, kind: type[T]) -> T:
    try:
        value: T = json_decode(files[name], kind)
    except (KeyError, msgspec.MsgspecError) as error:
        raise TargetsError(f"{name} is missing or cannot be read") from error
    if value.format != FORMAT:
        raise TargetsError(f"{name} has an unknown format")
    return value


def check_content(content: Content, trust_domain: str, now: datetime) -> None:
    """Check that nodes can use these targets.

    1 the checks of `build_targets`; 2 the bundle names our trust domain; 3 every root is a CA that signed itself;
    4 every issuer is a CA whose certificate one of the bundle's roots signed directly, so no issuer remains after its
    root was dropped; 5 every certificate is within its dates, and none is in the bundle twice. Raises TargetsError.
    """
    try:
        content.encoded()
    except IdError as error:
        raise TargetsError(str(error)) from error
    bundle = content.bundle
    if bundle.trust_domain != trust_domain:
        raise TargetsError(f"the bundle is for the trust domain {bundle.trust_domain}, not {trust_domain}")
    roots = read_certificates(bundle.roots)
    for root in roots:
        _check_ca(root, (root,), now)
    for ders in (bundle.node_issuers, bundle.service_issuers):
        for issuer in read_certificates(ders):
            _check_ca(issuer, roots, now)
    for ders in (bundle.roots, bundle.node_issuers, bundle.service_issuers):
        if len(set(ders)) != len(ders):
            raise TargetsError("a certificate is in the bundle twice")


def _check_ca(certificate: x509.Certificate, above: tuple[x509.Certificate, ...], now: datetime) -> None:
    name = certificate.subject.rfc4514_string()
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        is_ca = False
    if not is_ca:
        raise TargetsError(f"the certificate {name} is not a CA certificate")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise TargetsError(f"the certificate {name} is not valid at this time")
    if issuer_among(certificate, above) is None:
        raise TargetsError(f"no root of the bundle signed the certificate {name}")


def read_certificates(ders: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Read certificates from DER. Raises TargetsError."""
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in ders)
    except ValueError as error:
        raise TargetsError("a certificate of the bundle cannot be read") from error


def build_targets(
    *,
    keys: Sequence[VerificationKey],
    trust_domain: str,
    roots: Sequence[bytes],
    node_issuers: Sequence[bytes],
    service_issuers: Sequence[bytes],
    fabric_url: str,
    breakwater_url: str,
    repository_url: str = "",
) -> dict[str, bytes]:
    """Make the three target files, keyed by name. Certificates are DER. URLs have the form `https://host:port`.

    `repository_url` is the http URL of the trust repository; if it is empty, nodes use that of their activation file.

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
            ServiceUrls(
                format=FORMAT,
                fabric=_checked_url(fabric_url),
                breakwater=_checked_url(breakwater_url),
                repository=_checked_repository(repository_url),
            )
        ),
    }


def _checked_keys(keys: Sequence[VerificationKey]) -> tuple[VerificationKey, ...]:
    if not keys or len({key.kid for key in keys}) != len(keys):
        raise TargetsError("signing keys: there must be at least one, and each only once")
    for key in keys:
        try:
            public_key = serialization.load_der_public_key(key.public_key_der)
        except ValueError as error:
            raise TargetsError(f"the signing key {key.kid} cannot be read") from error
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
            raise TargetsError(f"the signing key {key.kid} is not a P-256 key")
        if key.kid != key_id(public_key):
            raise TargetsError(f"the signing key {key.kid} has a key id that does not match the key")
        if not key.typs or key.not_before >= key.not_after:
            raise TargetsError(f"the signing key {key.kid} has no document type, or its validity ends before it begins")
    return tuple(keys)


def _checked_certificates(certificates: Sequence[bytes]) -> tuple[bytes, ...]:
    if not certificates:
        raise TargetsError("a bundle needs at least one root, one issuer for nodes and one for services")
    read_certificates(certificates)
    return tuple(certificates)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    try:
        complete = bool(parts.hostname) and parts.port is not None
    except ValueError as error:
        raise TargetsError(f"the port of {url} is not a number") from error
    if not complete or parts.scheme != "https" or url != f"https://{parts.netloc}" or "@" in url:
        raise TargetsError(f"a service URL must have the form https://host:port, not {url}")
    return url


def _checked_repository(url: str) -> str:
    try:
        if url:
            check_base_url(url, "http", with_path=True)
    except UrlError as error:
        raise TargetsError(f"cannot publish the repository's URL {url}: {error}") from error
    return url
