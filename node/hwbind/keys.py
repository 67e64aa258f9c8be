"""Adapter: the keys in the TPM and their uses. Functions take a live ESAPI context and run inside `Tpm.call`.

- EK: identifies the chip; its certificate comes from NV memory, its key is decryption only.
- SRK: the parent of our keys, the persistent one where there is one.
- AK: restricted ECC P-256 signing key under the SRK; signs only what the TPM itself says.
- node key: unrestricted ECC P-256 signing key under the SRK; the machine's identity, never leaves the TPM.

Rules: every object loaded is flushed, whatever happens. Stored are wrapped blobs, which only this chip can load, and
not after `TPM2_Clear`. Nothing is under dictionary-attack protection (NoDA), so a lock-out does not stop a node.
Structures are kept and sent as the bytes the TPM gave: names are computed over them. An object of the library whose
parts are read is held in a variable while they are: a part can be memory of the whole.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_SE, TPM2_ST, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMS_ECC_POINT,
    TPMS_SCHEME_HASH,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK,
    TPMU_PUBLIC_ID,
    TPMU_SIG_SCHEME,
)

from node.hwbind.errors import TpmIntegrity, TpmNotOurs
from protocol.evidence import ClockInfo

EkType = Literal["rsa-2048", "ecc-p256", "ecc-p384"]
"""The endorsement keys of the TCG EK Credential Profile that a chip may carry; one of them identifies it."""

DEFAULT_EK_TYPE: EkType = "rsa-2048"

_EK_TEMPLATES: dict[EkType, str] = {
    "rsa-2048": "EK-RSA2048",
    "ecc-p256": "EK-ECC256",
    "ecc-p384": "EK-HIGH-ECC384",
}
_EK_PERSISTENT = 0x81010001
"""Where makers and installers keep the RSA EK (TCG PC Client Platform TPM Profile, reserved handles)."""

_SRK_PERSISTENT = 0x81000001
"""Where installers keep the SRK (TCG TPM v2.0 Provisioning Guidance, 7.5.1)."""

QUALIFYING_BYTES_MAX = 64
"""Longest nonce of `TPM2_Certify` (TPM2B_DATA holds the largest digest)."""

_NO_SUCH_HANDLE = 0x18B
_WRONG_PARENT = 0x1DF
_PARAMETER = 0x0C0
"""Bits of a format-one response code about a parameter (TPM 2.0 Library Part 2, 6.6.2)."""

_OURS = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
_AK_TEMPLATE = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=f"{_OURS}|sign|restricted")
_NODE_KEY_TEMPLATE = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=f"{_OURS}|sign")
_SRK_TEMPLATE = TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=f"{_OURS}|decrypt|restricted")
_SRK_TEMPLATE.publicArea.unique = TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=bytes(32), y=bytes(32)))

_STORAGE = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT | TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT


class WrappedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is stored: `TPMT_PUBLIC`, the wrapped private part, and the name of the parent that can load it.

    None of it is secret: the private part is encrypted by the chip. The parent's name tells "another chip, or
    a cleared one" from "the installer has put another key at the SRK's place since".
    """

    public: bytes
    private: bytes
    parent: bytes

    @property
    def name(self) -> bytes:
        """The TPM's name of the key: algorithm and SHA-256 over `TPMT_PUBLIC` (TPM 2.0 Library Part 1, 16)."""
        return b"\x00\x0b" + hashlib.sha256(self.public).digest()

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public part for `cryptography`. Raises TpmIntegrity."""
        pem = TPM2B_PUBLIC(publicArea=_parse(TPMT_PUBLIC, self.public)).to_pem()
        key = serialization.load_pem_public_key(pem)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TpmIntegrity("a stored key is not an EC key")
        return key


class Endorsement(msgspec.Struct, frozen=True):
    """The EK as `TPMT_PUBLIC`, and its certificate in DER where the maker wrote one."""

    public: bytes
    certificate: bytes | None


class Certification(msgspec.Struct, frozen=True):
    """`TPMS_ATTEST` of a key, and its `TPMT_SIGNATURE` by the AK."""

    attestation: bytes
    signature: bytes


def create_ak(esys: ESAPI) -> WrappedKey:
    """A new attestation key. Nothing stays in the TPM."""
    return _create(esys, _AK_TEMPLATE)


def create_node_key(esys: ESAPI) -> WrappedKey:
    """A new node key. Nothing stays in the TPM."""
    return _create(esys, _NODE_KEY_TEMPLATE)


@contextlib.contextmanager
def loaded(esys: ESAPI, *keys: WrappedKey) -> Iterator[tuple[ESYS_TR, ...]]:
    """Handles of keys, all of one parent, flushed at the end.

    Raises TpmNotOurs when this chip cannot load them, TpmIntegrity when a blob is no TPM structure.
    """
    blobs = [
        (_parse(TPM2B_PRIVATE, _sized(key.private)), TPM2B_PUBLIC(publicArea=_parse(TPMT_PUBLIC, key.public)))
        for key in keys
    ]
    with contextlib.ExitStack() as stack:
        parent = stack.enter_context(_storage_parent(esys, {key.parent for key in keys}))[0]
        handles = []
        for private, public in blobs:
            try:
                handle = esys.load(parent, private, public)
            except TSS2_Exception as error:
                if error.rc == _WRONG_PARENT:
                    raise TpmNotOurs("its storage key refuses it; the chip is another, or the file damaged") from error
                if error.rc & _PARAMETER == _PARAMETER:
                    raise TpmIntegrity("the TPM cannot read a stored key") from error
                raise
            stack.callback(_flush, esys, handle)
            handles.append(handle)
        yield tuple(handles)


def sign(esys: ESAPI, key: WrappedKey, message: bytes) -> bytes:
    """ECDSA with SHA-256 over `message` by the node key; DER (ECDSA-Sig-Value, RFC 3279 section 2.2.3)."""
    return sign_digest(esys, key, hashlib.sha256(message).digest())


def sign_digest(esys: ESAPI, key: WrappedKey, digest: bytes) -> bytes:
    """The same for a SHA-256 digest of 32 bytes."""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("the digest is not one of SHA-256")
    scheme = TPMT_SIG_SCHEME(
        scheme=TPM2_ALG.ECDSA, details=TPMU_SIG_SCHEME(any=TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256))
    )
    ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
    with loaded(esys, key) as (handle,):
        signature = esys.sign(handle, digest, scheme, ticket)
    r, s = (int.from_bytes(bytes(part), "big") for part in _ecdsa_parts(signature))
    return encode_dss_signature(r, s)


def certificate_request(esys: ESAPI, key: WrappedKey) -> bytes:
    """A PKCS#10 request (RFC 2986) in DER that proves possession of `key`. It asks for nothing: the profile decides."""
    from tpm2_pytss.cryptography import tpm_ecc_private_key

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    with loaded(esys, key) as (handle,):
        request = builder.sign(tpm_ecc_private_key(esys, handle), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def certify(esys: ESAPI, key: WrappedKey, ak: WrappedKey, qualifying: bytes) -> Certification:
    """`TPM2_Certify` of `key` by `ak`, with `qualifying` (1 to 64 bytes) as `extraData`."""
    if not 0 < len(qualifying) <= QUALIFYING_BYTES_MAX:
        raise ValueError(f"qualifying data has 1 to {QUALIFYING_BYTES_MAX} bytes")
    with loaded(esys, key, ak) as (key_handle, ak_handle):
        attestation, signature = esys.certify(key_handle, ak_handle, qualifying, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL))
    return Certification(attestation=bytes(attestation), signature=bytes(signature.marshal()))


def read_endorsement(esys: ESAPI, ek_type: EkType = DEFAULT_EK_TYPE) -> Endorsement:
    """The EK that identifies the chip, and its certificate.

    Raises TpmFailed through the port, or ValueError from the library for an EK type whose certificate is missing.
    """
    with _endorsement_key(esys, ek_type) as (_, public, certificate):
        return Endorsement(public=bytes(public.marshal()), certificate=certificate)


def activate_credential(
    esys: ESAPI,
    ak: WrappedKey,
    credential_blob: bytes,
    encrypted_secret: bytes,
    ek_type: EkType = DEFAULT_EK_TYPE,
) -> bytes:
    """The secret of a challenge (`TPM2_MakeCredential`) that was made to this chip's EK and this AK.

    Both arguments are marshalled, `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`. Raises TpmIntegrity for any other.
    """
    blob = _parse(TPM2B_ID_OBJECT, credential_blob)
    secret = _parse(TPM2B_ENCRYPTED_SECRET, encrypted_secret)
    with (
        loaded(esys, ak) as (ak_handle,),
        _endorsement_key(esys, ek_type) as (ek_handle, public, _),
        _endorsement_authorisation(esys, public) as authorisation,
    ):
        released = esys.activate_credential(
            ak_handle, ek_handle, blob, secret, session1=ESYS_TR.PASSWORD, session2=authorisation
        )
    return bytes(released)


def read_clock(esys: ESAPI) -> ClockInfo:
    """The TPM's clock and counters: a hint and evidence, not a root of trust."""
    time_info = esys.read_clock()
    info = time_info.clockInfo
    return ClockInfo(
        clock=int(info.clock),
        reset_count=int(info.resetCount),
        restart_count=int(info.restartCount),
        safe=bool(info.safe),
    )


def _create(esys: ESAPI, template: TPM2B_PUBLIC) -> WrappedKey:
    with _storage_parent(esys, None) as (parent, name):
        private, public, *_ = esys.create(parent, None, template)
    return WrappedKey(public=bytes(public.publicArea.marshal()), private=bytes(private), parent=name)


@contextlib.contextmanager
def _storage_parent(esys: ESAPI, wanted: set[bytes] | None) -> Iterator[tuple[ESYS_TR, bytes]]:
    """Handle and name of the SRK: the persistent one, else the default primary key (0.1-1 s on a chip).

    `wanted` are the parents' names of keys to load; TpmNotOurs when the SRK is not their one parent.
    """
    with _persistent(esys, _SRK_PERSISTENT) as persistent:
        if persistent is not None:
            handle, public, name = persistent
            fits = (public.objectAttributes & _STORAGE) == _STORAGE
            if fits and (wanted is None or wanted == {name}):
                yield handle, name
                return
    handle, _, *_ = esys.create_primary(None, _SRK_TEMPLATE, ESYS_TR.OWNER)
    try:
        name = bytes(esys.read_public(handle)[1])
        if wanted is not None and wanted != {name}:
            raise TpmNotOurs("its storage key is not the one that wraps the node's keys")
        yield handle, name
    finally:
        _flush(esys, handle)


@contextlib.contextmanager
def _endorsement_key(esys: ESAPI, ek_type: EkType) -> Iterator[tuple[ESYS_TR, TPMT_PUBLIC, bytes | None]]:
    """Handle, public part and certificate of the EK: the persistent one if it is the certificate's, else a new one."""
    # Here and above: for an activation or a renewal; a start does not wait for them to load.
    from tpm2_pytss.utils import NVReadEK, create_ek_template

    stored, template = create_ek_template(_EK_TEMPLATES[ek_type], NVReadEK(esys))
    certificate = _exact_der(bytes(stored)) if stored else None
    if ek_type == "rsa-2048" and certificate is not None:
        with _persistent(esys, _EK_PERSISTENT) as persistent:
            if persistent is not None and _certified_modulus(certificate) == _modulus(persistent[1]):
                yield persistent[0], persistent[1], certificate
                return
    handle, public, *_ = esys.create_primary(None, template, ESYS_TR.ENDORSEMENT)
    try:
        yield handle, public.publicArea, certificate
    finally:
        _flush(esys, handle)


@contextlib.contextmanager
def _endorsement_authorisation(esys: ESAPI, public: TPMT_PUBLIC) -> Iterator[ESYS_TR]:
    """What authorises the use of an EK: a policy session for the low-range templates, else an empty password."""
    if public.objectAttributes & TPMA_OBJECT.USERWITHAUTH:
        yield ESYS_TR.PASSWORD
        return
    session = esys.start_auth_session(
        ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
    )
    try:
        esys.policy_secret(ESYS_TR.ENDORSEMENT, session)
        yield session
    finally:
        _flush(esys, session)


@contextlib.contextmanager
def _persistent(esys: ESAPI, handle: int) -> Iterator[tuple[ESYS_TR, TPMT_PUBLIC, bytes] | None]:
    """ESAPI's handle, public part and name of a persistent object; None where there is none."""
    try:
        reference = esys.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if error.rc != _NO_SUCH_HANDLE:
            raise
        yield None
        return
    try:
        public, name, _ = esys.read_public(reference)
        yield reference, public.publicArea, bytes(name)
    finally:
        esys.tr_close(reference)


def _flush(esys: ESAPI, handle: ESYS_TR) -> None:
    """Where flushing fails the connection is gone, and the resource manager flushes for us."""
    with contextlib.suppress(TSS2_Exception):
        esys.flush_context(handle)


def _parse(kind: Any, raw: bytes) -> Any:
    """`raw` as a TPM structure that takes all of it and says the same bytes again. Raises TpmIntegrity."""
    try:
        value, used = kind.unmarshal(raw)
        exact = used == len(raw) and bytes(value.marshal()) == raw
    except (TSS2_Exception, ValueError) as error:
        raise TpmIntegrity(f"not a {kind.__name__}") from error
    if not exact:
        raise TpmIntegrity(f"not exactly a {kind.__name__}")
    return value


def _sized(buffer: bytes) -> bytes:
    """A TPM2B of `buffer`; what no TPM2B can hold becomes what cannot be parsed."""
    return min(len(buffer), 0xFFFF).to_bytes(2, "big") + buffer


def _ecdsa_parts(signature: Any) -> tuple[Any, Any]:
    return signature.signature.ecdsa.signatureR, signature.signature.ecdsa.signatureS


def _exact_der(stored: bytes) -> bytes:
    """A certificate without the padding that makers leave behind it in NV memory (X.690 8.1.3: long form, 2 bytes)."""
    if len(stored) >= 4 and stored[:2] == b"\x30\x82":
        return stored[: 4 + int.from_bytes(stored[2:4], "big")]
    return stored


def _certified_modulus(certificate: bytes) -> int | None:
    """The RSA modulus of a certificate; None for what cannot be read, which the verifier then judges."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, TypeError):
        return None
    return key.public_numbers().n if isinstance(key, rsa.RSAPublicKey) else None


def _modulus(public: TPMT_PUBLIC) -> int | None:
    return int.from_bytes(bytes(public.unique.rsa), "big") if public.type == TPM2_ALG.RSA else None
