"""Values: the targets of the trust repository (signing keys, X.509 trust bundle, service URLs).

A target is trusted only through the TUF metadata that list it. This module defines the targets' form; it verifies
nothing.
"""

import msgspec

from protocol.signed.envelope import KeyRing, VerificationKey

TARGET_SIGNING_KEYS = "signing-keys.json"
TARGET_X509_BUNDLE = "x509-bundle.json"
TARGET_SERVICES = "services.json"
TARGETS = (TARGET_SIGNING_KEYS, TARGET_X509_BUNDLE, TARGET_SERVICES)
TARGET_FORMAT = 1
"""The `format` of every target that this version writes and reads."""


class SigningKeys(msgspec.Struct, frozen=True):
    """The signing keys: which `kid` may sign which `typ`, and for which dates of issue."""

    format: int
    keys: tuple[VerificationKey, ...]

    def ring(self) -> KeyRing:
        """The keys by `kid`."""
        return KeyRing(self.keys)


class X509Bundle(msgspec.Struct, frozen=True):
    """Root certificates, and the issuing CAs of nodes and of services. All are in DER."""

    format: int
    trust_domain: str
    roots: tuple[bytes, ...]
    node_issuers: tuple[bytes, ...]
    service_issuers: tuple[bytes, ...]


class ServiceUrls(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base URLs of the services, `https://host:port`, without a path; and the URL of the trust repository, `http://`.

    `repository` is empty in targets that were signed before the field existed. Nodes then use the URL of their
    activation file.
    """

    format: int
    fabric: str
    breakwater: str
    repository: str = ""
