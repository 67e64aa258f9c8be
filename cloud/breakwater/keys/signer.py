"""Port for CA signing keys, and the signer. Adapters (`file.py`, `pkcs11.py`) hold the keys; the signer accepts only
linted bytes.

The signer knows no profiles, records or callers. Rule: it takes a `Linted` once, and only for the issuer that the
bytes were linted for and whose key was added.
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
"""Ends the names of CAs that `cascade init` made for development."""


class CaKey(Protocol):
    """A private key of a CA, wherever it lies."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey: ...

    async def sign(self, data: bytes) -> bytes:
        """An ECDSA signature in DER (RFC 3279 section 2.2.3) over SHA-256, on P-384 over SHA-384.

        Raises SignerUnavailable (try again), SignerError.
        """
        ...


class Keys(Protocol):
    """Where the keys of CAs lie."""

    async def open(self, reference: str) -> CaKey:
        """The key that `generate` made under this reference. Raises SignerUnavailable, SignerError."""
        ...

    async def generate(self, authority: str) -> str:
        """Make a P-256 key for an authority, durable when this returns; gives its reference.

        Raises SignerUnavailable, SignerError, also when the authority has a key here already: it may have signed.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything; the keys stay where they lie."""
        ...


class _Held(msgspec.Struct, frozen=True):
    issuer: Issuer
    key: CaKey


class Signer:
    """Signs for the authorities it was given, each with its own key."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._usage: dict[str, int] = {}

    def add(self, issuer: Issuer, key: CaKey) -> None:
        """Sign for an authority from now on, in place of what was held for it.

        Raises:
            SignerError: the key is not that of the issuer's certificate. For a root that is about to sign itself, not
                that of its key identifier.
        """
        if not _belong_together(issuer, key.public_key):
            raise SignerError(f"the key of the CA {issuer.authority} does not belong to its certificate")
        self._held[issuer.authority] = _Held(issuer, key)
        self._usage.setdefault(issuer.authority, 0)

    def remove(self, authority: str) -> None:
        """Sign for this authority no more. What it signed stays counted."""
        self._held.pop(authority, None)

    def holds(self, authority: str) -> bool:
        """Whether this signer signs for an authority. Its key may be out of reach at the moment all the same."""
        return authority in self._held

    def usage(self) -> dict[str, int]:
        """How often each authority's key was used since this process began.

        A use whose signature never came back (`SignerUnavailable`) counts too: the key may have signed.
        """
        return dict(self._usage)

    async def sign(self, linted: Linted) -> bytes:
        """A Certificate or CertificateList in DER, its to-be-signed bytes exactly the linted ones.

        The linted bytes are used up also when no signature comes back: a record is signed once or never, and whether
        hardware that went silent has signed is not known. Ask again with a new record.

        Raises:
            SignerError: not the issuer that was linted for, or its key fails. SignerUnavailable: its key is out of
                reach for now. LintError: these bytes were given before.
        """
        issuer = linted.issuer
        held = self._held.get(issuer.authority)
        if held is None:
            raise SignerError(f"cannot sign: this signer does not hold the CA {issuer.authority}")
        if held.issuer is not issuer and held.issuer != issuer:
            raise SignerError(f"cannot sign: this signer is not the CA {issuer.authority} that was linted for")
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
    """What profiles and lint need of a CA certificate. Raises SignerError for a certificate that is no CA's."""
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
    """Whether a CA was made for development."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return any(str(name.value).endswith(DEVELOPMENT_MARK) for name in names)


async def certificate_request(key: CaKey, common_name: str) -> bytes:
    """A PKCS#10 request (RFC 2986) for a CA's key, DER, that wishes for nothing: the offline root decides.

    Done by hand because the library signs requests with keys in memory only.

    Raises:
        SignerUnavailable, SignerError. ValueError: not a common name (1 to 64 characters).
    """
    public_key = key.public_key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]).public_bytes()
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    info = sequence(integer(0), subject, spki, tlv(0xA0, b""))
    return sequence(info, algorithm_der(public_key.curve.name), bit_string(await key.sign(info)))


class _AllKeys:
    """Files beside a token: what an installation has while its authorities move to hardware, one generation each."""

    def __init__(self, files: FileKeys, token: Pkcs11Keys | None) -> None:
        self._files = files
        self._token = token

    async def open(self, reference: str) -> CaKey:
        """See `Keys.open`; the reference says which."""
        if reference.startswith(Pkcs11Keys.PREFIX):
            if self._token is None:
                raise SignerError(f"cannot open {reference}: the settings name no token")
            return await self._token.open(reference)
        return await self._files.open(reference)

    async def generate(self, authority: str) -> str:
        """See `Keys.generate`: on the token, if there is one."""
        return await (self._token or self._files).generate(authority)

    async def aclose(self) -> None:
        """See `Keys.aclose`."""
        if self._token is not None:
            await self._token.aclose()


def open_keys(directory: Path, passphrase: bytes, token: TokenSettings | None = None, base: Path = Path()) -> Keys:
    """The keys of an installation: files in `directory`, and those on a token if the settings name one.

    New keys are made on the token then. `base` is where a relative `pin_file` begins. Nothing is read or started yet.

    Raises:
        KeyFileError: the PIN is to be a credential, and this process was given none.
    """
    files = FileKeys(directory, passphrase)
    if token is None:
        return files
    pin_file = secret_path(token.pin_file, base)
    return _AllKeys(files, Pkcs11Keys(Path(token.module), token.label, pin_file, token.timeout_seconds))
