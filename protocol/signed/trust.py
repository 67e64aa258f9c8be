"""Value types: the targets of the trust repository (signing keys, X.509 trust bundle, service URLs).

A target is trusted only through the TUF metadata that name it. This module has its form, and verifies nothing.
"""

import msgspec

from protocol.signed.envelope import KeyRing, VerificationKey

TARGET_SIGNING_KEYS = "signing-keys.json"
TARGET_X509_BUNDLE = "x509-bundle.json"
TARGET_SERVICES = "services.json"
TARGETS = (TARGET_SIGNING_KEYS, TARGET_X509_BUNDLE, TARGET_SERVICES)
TARGET_FORMAT = 1
"""The `format` of every target that both sides write and read."""


class SigningKeys(msgspec.Struct, frozen=True):
    """Which `kid` may sign which `typ`, and from when to when."""

    format: int
    keys: tuple[VerificationKey, ...]

    def ring(self) -> KeyRing:
        return KeyRing(self.keys)


class X509Bundle(msgspec.Struct, frozen=True):
    """Roots (DER) and, by class of peer, the issuing CAs that may stand below them."""

    format: int
    trust_domain: str
    roots: tuple[bytes, ...]
    node_issuers: tuple[bytes, ...]
    service_issuers: tuple[bytes, ...]


class ServiceUrls(msgspec.Struct, frozen=True):
    """Base URLs, `https://host:port`, without a path."""

    format: int
    fabric: str
    breakwater: str
