"""The one port to CA keys, and its first adapter: keys in encrypted files.

A signer knows nothing of profiles, records or callers. Rule: it takes a `Linted`, once, and only for the issuer it
was linted for. An adapter for hardware (PKCS#11) stands beside this one and changes nothing above it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.breakwater.errors import SignerError
from cloud.breakwater.lint import Linted, assemble
from cloud.breakwater.profiles import CaName, Issuer, hash_of
from cloud.keyfile import KeyFileError, read_key

DEVELOPMENT_MARK = "(development)"
"""Ends the names of CAs that `cascade init` made for development."""


class Signer(Protocol):
    """Signs with the CA keys; `issuer` raises SignerError for a CA that this signer does not hold."""

    def issuer(self, name: CaName) -> Issuer: ...

    async def sign(self, linted: Linted) -> bytes:
        """The certificate in DER, its to-be-signed bytes exactly the linted ones. Raises SignerError, LintError."""
        ...


def issuer_of(name: CaName, certificate: x509.Certificate) -> Issuer:
    """What profiles and lint need of a CA certificate. Raises SignerError for a certificate that is no CA's."""
    public_key = certificate.public_key()
    try:
        key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise SignerError(f"the certificate of {name} is not a CA's") from error
    if not constraints.ca or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise SignerError(f"the certificate of {name} is not a CA's")
    return Issuer(
        name=name,
        subject=certificate.subject,
        key_id=key_id,
        curve=public_key.curve.name,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        certificate_der=certificate.public_bytes(serialization.Encoding.DER),
    )


def load_ca(path: Path, name: CaName, root: x509.Certificate) -> tuple[x509.Certificate, Issuer]:
    """A CA certificate in PEM that the root itself signed. Raises SignerError."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(root)
    except (OSError, ValueError, TypeError) as error:
        raise SignerError(f"cannot use the CA certificate {path}: {error}") from error
    except InvalidSignature as error:
        raise SignerError(f"cannot use the CA certificate {path}: the root did not sign it") from error
    return certificate, issuer_of(name, certificate)


class KeySigner:
    """Signs with keys in memory. `keys` and `issuers` have the same names, and each pair belongs together."""

    def __init__(self, keys: Mapping[CaName, ec.EllipticCurvePrivateKey], issuers: Mapping[CaName, Issuer]) -> None:
        self._keys = dict(keys)
        self._issuers = dict(issuers)

    def issuer(self, name: CaName) -> Issuer:
        """The CA by that name. Raises SignerError."""
        try:
            return self._issuers[name]
        except KeyError as error:
            raise SignerError(f"cannot issue: no CA {name} here") from error

    async def sign(self, linted: Linted) -> bytes:
        """See `Signer.sign`."""
        issuer = linted.issuer
        if self._issuers.get(issuer.name) is not issuer:
            raise SignerError(f"cannot sign: this signer is not the {issuer.name} CA that was linted for")
        tbs = linted.redeem()
        signature = self._keys[issuer.name].sign(tbs, ec.ECDSA(hash_of(issuer.curve)))
        return assemble(tbs, issuer.curve, signature)


def is_for_development(certificate: x509.Certificate) -> bool:
    """Whether a CA was made for development."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return any(str(name.value).endswith(DEVELOPMENT_MARK) for name in names)


def load_file_signer(directory: Path, passphrase: bytes) -> tuple[KeySigner, x509.Certificate]:
    """The issuing CAs of `directory` (keys/ and certs/), and the root certificate.

    Checks that the root signed both CA certificates and that each key belongs to its certificate. Raises SignerError.
    """
    try:
        root = x509.load_pem_x509_certificate((directory / "certs" / "root.pem").read_bytes())
    except (OSError, ValueError) as error:
        raise SignerError(f"cannot read the root certificate: {error}") from error
    keys: dict[CaName, ec.EllipticCurvePrivateKey] = {}
    issuers: dict[CaName, Issuer] = {}
    names: tuple[CaName, ...] = ("nodes", "services")
    for name in names:
        certificate, issuers[name] = load_ca(directory / "certs" / f"{name}-ca.pem", name, root)
        try:
            key = read_key(directory / "keys" / f"{name}-ca.key.pem", passphrase)
        except KeyFileError as error:
            raise SignerError(str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise SignerError(f"the key of the {name} CA does not belong to its certificate")
        keys[name] = key
    return KeySigner(keys, issuers), root
