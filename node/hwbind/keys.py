"""Adapter: the agent's keys in the TPM and their uses. The functions take a live ESAPI context and run in `Tpm.call`.

- SRK: the parent of the AK and the node key. The persistent SRK is used if the TPM has one.
- AK: restricted ECC P-256 signing key under the SRK. It signs only data that the TPM itself made.
- Node key: unrestricted ECC P-256 signing key under the SRK. It is the machine's identity and never leaves the TPM.

Rules:

- Every loaded object is flushed, after an error as well.
- Keys are stored as wrapped blobs. Only this chip can load them, and not after `TPM2_Clear`.
- No key is under dictionary-attack protection (NoDA), so a lock-out does not stop a node.
- Structures are stored and sent as the bytes that the TPM returned, because names are digests of these bytes.
- Code that reads a part of a library object keeps the whole object in a variable meanwhile, because the part can point
  into the memory of the whole.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_ST, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMS_ECC_POINT,
    TPMS_SCHEME_HASH,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
    TPMU_PUBLIC_ID,
    TPMU_SIG_SCHEME,
)

from node.hwbind.errors import TpmIntegrity, TpmNotOurs
from protocol.evidence import ClockInfo

_SRK_PERSISTENT = 0x81000001
"""Handle of the persistent SRK (TCG TPM v2.0 Provisioning Guidance, 7.5.1)."""

QUALIFYING_BYTES_MAX = 64
"""Longest qualifying data of `TPM2_Certify`: TPM2B_DATA has room for the largest digest."""

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

    No part is secret, because the chip encrypts the private part. A parent name that differs from the persistent SRK's
    has one of two causes: the chip is another one or was cleared, or an installer has since made another persistent
    SRK. In the second case the default primary key still has the parent's name.
    """

    public: bytes
    private: bytes
    parent: bytes

    @property
    def name(self) -> bytes:
        """The TPM's name of the key: algorithm and SHA-256 over `TPMT_PUBLIC` (TPM 2.0 Library Part 1, 16)."""
        return b"\x00\x0b" + hashlib.sha256(self.public).digest()

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public part as a key of `cryptography`. Raises TpmIntegrity."""
        pem = TPM2B_PUBLIC(publicArea=parse(TPMT_PUBLIC, self.public)).to_pem()
        key = serialization.load_pem_public_key(pem)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TpmIntegrity("a stored key is not an EC key")
        return key


class Certification(msgspec.Struct, frozen=True):
    """`TPMS_ATTEST` about a key, and the AK's `TPMT_SIGNATURE` over it."""

    attestation: bytes
    signature: bytes


def create_ak(esys: ESAPI) -> WrappedKey:
    """Make an attestation key. It is returned wrapped; the TPM keeps nothing."""
    return _create(esys, _AK_TEMPLATE)


def create_node_key(esys: ESAPI) -> WrappedKey:
    """Make a node key. It is returned wrapped; the TPM keeps nothing."""
    return _create(esys, _NODE_KEY_TEMPLATE)


@contextlib.contextmanager
def loaded(esys: ESAPI, *keys: WrappedKey) -> Iterator[tuple[ESYS_TR, ...]]:
    """Load keys of one parent, and flush them at the end of the block. Yields their handles in the same order.

    Raises TpmNotOurs if this chip cannot load a key, TpmIntegrity if a blob is no TPM structure.
    """
    blobs = [
        (parse(TPM2B_PRIVATE, _sized(key.private)), TPM2B_PUBLIC(publicArea=parse(TPMT_PUBLIC, key.public)))
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
                    raise TpmNotOurs("the chip's storage key refuses it; another chip, or a damaged file") from error
                if error.rc & _PARAMETER == _PARAMETER:
                    raise TpmIntegrity("the TPM cannot read a stored key") from error
                raise
            stack.callback(flush, esys, handle)
            handles.append(handle)
        yield tuple(handles)


def sign(esys: ESAPI, key: WrappedKey, message: bytes) -> bytes:
    """Sign `message` with ECDSA and SHA-256. Returns DER (ECDSA-Sig-Value, RFC 3279 section 2.2.3)."""
    return sign_digest(esys, key, hashlib.sha256(message).digest())


def sign_digest(esys: ESAPI, key: WrappedKey, digest: bytes) -> bytes:
    """As `sign`, for the SHA-256 digest (32 bytes) of a message."""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("the digest does not have the length of SHA-256")
    scheme = TPMT_SIG_SCHEME(
        scheme=TPM2_ALG.ECDSA, details=TPMU_SIG_SCHEME(any=TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256))
    )
    ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
    with loaded(esys, key) as (handle,):
        signature = esys.sign(handle, digest, scheme, ticket)
    r, s = (int.from_bytes(bytes(part), "big") for part in _ecdsa_parts(signature))
    return encode_dss_signature(r, s)


def certificate_request(esys: ESAPI, key: WrappedKey) -> bytes:
    """A PKCS#10 request (RFC 2986) in DER that proves possession of `key`.

    Subject and extensions are empty, because the issuer's profile decides the content of the certificate.
    """
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


def read_clock(esys: ESAPI) -> ClockInfo:
    """The TPM's clock and counters. They are reported as evidence; the agent does not trust them as a time source."""
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
    """Handle and name of the storage key: the persistent SRK, or else the default primary key (0.1-1 s on a chip).

    `wanted` has the parent names of the keys to load; None when a key is made. Raises TpmNotOurs unless the storage key
    is the parent of all of them.
    """
    with persistent_object(esys, _SRK_PERSISTENT) as persistent:
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
            raise TpmNotOurs("the chip's storage key is not the parent of the node's keys")
        yield handle, name
    finally:
        flush(esys, handle)


@contextlib.contextmanager
def persistent_object(esys: ESAPI, handle: int) -> Iterator[tuple[ESYS_TR, TPMT_PUBLIC, bytes] | None]:
    """ESAPI's handle, public part and name of a persistent object; None if the TPM has no object at `handle`."""
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


def flush(esys: ESAPI, handle: ESYS_TR) -> None:
    """Flush an object. If that fails, the connection is lost, and the resource manager flushes the object."""
    with contextlib.suppress(TSS2_Exception):
        esys.flush_context(handle)


def parse(kind: Any, raw: bytes) -> Any:
    """Parse `raw` as a TPM structure. It must use all bytes and marshal to the same bytes. Raises TpmIntegrity."""
    try:
        value, used = kind.unmarshal(raw)
        exact = used == len(raw) and bytes(value.marshal()) == raw
    except (TSS2_Exception, ValueError) as error:
        raise TpmIntegrity(f"not a {kind.__name__}") from error
    if not exact:
        raise TpmIntegrity(f"not exactly a {kind.__name__}")
    return value


def _sized(buffer: bytes) -> bytes:
    """A TPM2B of `buffer`. For a buffer that is too long for a TPM2B the result cannot be parsed."""
    return min(len(buffer), 0xFFFF).to_bytes(2, "big") + buffer


def _ecdsa_parts(signature: Any) -> tuple[Any, Any]:
    return signature.signature.ecdsa.signatureR, signature.signature.ecdsa.signatureS
