"""Port: CA signing keys, and the signer. Adapters (`file.py`, `pkcs11.py`) hold the keys.

The signer does not know profiles, records or callers. Rule: It signs each `Linted` at most once, with the key of the
issuer for which the bytes were linted.
"""

from pathlib import Path
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.breakwater.errors import SignerError
from cloud.breakwater.keys.file import FileKeys
from cloud.breakwater.keys.pkcs11 import Pkcs11Keys, TokenSettings
from cloud.breakwater.pkix.csr import key_identifier
from cloud.breakwater.pkix.linted import Linted, algorithm_der, assemble
from cloud.breakwater.pkix.profiles import CaName, Issuer
from cloud.crypto.der import bit_string, integer, sequence, tlv
from cloud.crypto.keyfile import secret_path

DEVELOPMENT_MARK = "(development)"
"""The end of a CA's name when `cascade init` made the CA for development."""


class CaKey(Protocol):
    """Port: a private key of a CA."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey: ...

    async def sign(self, data: bytes) -> bytes:
        """Return an ECDSA signature in DER (RFC 3279 section 2.2.3), with SHA-256 on P-256 and SHA-384 on P-384.

        Raises SignerUnavailable (a retry may succeed) or SignerError.
        """
        ...


class Keys(Protocol):
    """Port: a store of CA keys. A reference names one key: `file:NAME` or `pkcs11:LABEL`."""

    async def open(self, reference: str) -> CaKey:
        """Open the key with this reference. Raises SignerUnavailable or SignerError."""
        ...

    async def generate(self, authority: str) -> str:
        """Make a P-256 key for an authority and return its reference. The key is durable when this returns.

        Raises SignerUnavailable or SignerError. An existing key of the authority is never replaced, because it may have
        signed; that is a SignerError too.
        """
        ...

    async def aclose(self) -> None:
        """Release files and processes. The stored keys are not changed."""
        ...


class _Held(msgspec.Struct, frozen=True):
    issuer: Issuer
    key: CaKey


class Signer:
    """Signs for the authorities that were added, each with its own key."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._usage: dict[str, int] = {}

    def add(self, issuer: Issuer, key: CaKey) -> None:
        """Sign for an authority from now on. `key` replaces an earlier key of the same authority.

        Raises:
            SignerError: the key does not belong to the issuer's certificate. A root that has no certificate yet is
                compared by its key identifier.
        """
        if not _belong_together(issuer, key.public_key):
            raise SignerError(f"the key of the CA {issuer.authority} does not belong to its certificate")
        self._held[issuer.authority] = _Held(issuer, key)
        self._usage.setdefault(issuer.authority, 0)

    def remove(self, authority: str) -> None:
        """Stop signing for this authority. `usage` still contains its signatures."""
        self._held.pop(authority, None)

    def holds(self, authority: str) -> bool:
        """Whether the key of an authority was added. A token may still be unreachable at this moment."""
        return authority in self._held

    def usage(self) -> dict[str, int]:
        """Return how often each authority's key was used since this signer was made.

        A use without a signature (`SignerUnavailable`) counts too, because the token may have signed.
        """
        return dict(self._usage)

    async def sign(self, linted: Linted) -> bytes:
        """Sign linted bytes and return the Certificate or CertificateList in DER.

        After a failure the same `Linted` cannot be signed again: a token that did not answer may have signed, and each
        record is signed at most once. The caller makes a new record and lints it.

        Raises:
            SignerError: the issuer was not added, or was added with another certificate, or its key fails.
            SignerUnavailable: the key cannot be reached now.
            LintError: these bytes were already passed to a signer.
        """
        issuer = linted.issuer
        held = self._held.get(issuer.authority)
        if held is None:
            raise SignerError(f"cannot sign: the key of the CA {issuer.authority} is not open in this process")
        if held.issuer is not issuer and held.issuer != issuer:
            raise SignerError(
                f"cannot sign: the bytes were linted for another certificate of the CA {issuer.authority}"
            )
        tbs = linted.redeem()
        self._usage[issuer.authority] += 1
        return assemble(tbs, issuer.curve, await held.key.sign(tbs))


def _belong_together(issuer: Issuer, key: ec.EllipticCurvePublicKey) -> bool:
    if key.curve.name != issuer.curve:
        return False
    if not issuer.certificate_der:
        return key_identifier(key) == issuer.key_id
    return x509.load_der_x509_certificate(issuer.certificate_der).public_key() == key


def issuer_of(name: CaName, authority: str, certificate: x509.Certificate) -> Issuer:
    """Return the `Issuer` of a CA certificate. Raises SignerError when the certificate is not a CA's with an EC key."""
    public_key = certificate.public_key()
    try:
        key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise SignerError(f"the certificate of {authority} is not a CA's") from error
    if not constraints.ca or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise SignerError(f"the certificate of {authority} is not a CA's")
    return Issuer(
        name=name,
        authority=authority,
        subject=certificate.subject,
        key_id=key_id,
        curve=public_key.curve.name,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        certificate_der=certificate.public_bytes(serialization.Encoding.DER),
    )


def is_for_development(certificate: x509.Certificate) -> bool:
    """Whether the name of a CA ends with `DEVELOPMENT_MARK`."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return any(str(name.value).endswith(DEVELOPMENT_MARK) for name in names)


async def certificate_request(key: CaKey, common_name: str) -> bytes:
    """Return a PKCS#10 request (RFC 2986) in DER for a CA's key.

    The request has no attributes, because the offline root decides every extension. We encode the request ourselves
    because the library signs requests only with keys in memory.

    Raises:
        SignerUnavailable, SignerError: the key cannot sign.
        ValueError: the common name does not have 1 to 64 characters.
    """
    public_key = key.public_key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]).public_bytes()
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    info = sequence(integer(0), subject, spki, tlv(0xA0, b""))
    return sequence(info, algorithm_der(public_key.curve.name), bit_string(await key.sign(info)))


class _AllKeys:
    """Adapter: keys in files and keys on a token.

    An installation has both while it moves to a token, because each authority keeps its key and only the next
    generation gets one on the token.
    """

    def __init__(self, files: FileKeys, token: Pkcs11Keys | None) -> None:
        self._files = files
        self._token = token

    async def open(self, reference: str) -> CaKey:
        """See `Keys.open`. The prefix of the reference selects the token or the files."""
        if reference.startswith(Pkcs11Keys.PREFIX):
            if self._token is None:
                raise SignerError(f"cannot open the key {reference}: the settings name no token")
            return await self._token.open(reference)
        return await self._files.open(reference)

    async def generate(self, authority: str) -> str:
        """See `Keys.generate`. The key is made on the token if the settings name one."""
        return await (self._token or self._files).generate(authority)

    async def aclose(self) -> None:
        """See `Keys.aclose`."""
        if self._token is not None:
            await self._token.aclose()


def open_keys(directory: Path, passphrase: bytes, token: TokenSettings | None = None, base: Path = Path()) -> Keys:
    """Return the keys of an installation: files in `directory`, and a token if the settings name one.

    With a token, new keys are made on the token. A relative `pin_file` starts at `base`. This function reads no key and
    starts no process.

    Raises:
        KeyFileError: `pin_file` names a credential, but systemd gave this process no credentials.
    """
    files = FileKeys(directory, passphrase)
    if token is None:
        return files
    pin_file = secret_path(token.pin_file, base)
    return _AllKeys(files, Pkcs11Keys(Path(token.module), token.label, pin_file, token.timeout_seconds))
