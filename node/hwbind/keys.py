"""Adapter: the agent's keys and their uses. The functions take a live ESAPI context and run in `Tpm.call`.

The keys are in the TPM. A node of the tier `software` has a node key of the kind of `node.hwbind.software` and no other
key. `sign`, `sign_digest` and `certificate_request` use either kind; with a software key they need no context.

- SRK: the parent of the AK and the node key. The persistent SRK is used if the TPM has one that needs no password.
- AK: restricted ECC P-256 signing key under the SRK. It signs only data that the TPM itself made.
- Node key: unrestricted ECC P-256 signing key under the SRK. It is the machine's identity and never leaves the TPM.

Rules:

- Every loaded object is flushed, after an error as well.
- Keys are stored as wrapped blobs. Only this chip can load them, and not after `TPM2_Clear`.
- No key is under dictionary-attack protection (NoDA), so a lock-out does not stop a node.
- A persistent object of another owner is used only if it is NoDA too. Otherwise a wrong password would count as an
  attack, and the agent itself would lock the TPM.
- The public part of the parent is stored with each key. A primary key is a function of the chip's seed and of this
  template, so the chip makes the parent again after its persistent copy was removed or replaced.
- Structures are stored and sent as the bytes that the TPM returned, because names are digests of these bytes.
- Code that reads a part of a library object keeps the whole object in a variable meanwhile, because the part can point
  into the memory of the whole.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_ECC, TPM2_RH, TPM2_ST, TPMA_OBJECT
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

from node.hwbind import faults, software
from node.hwbind.errors import TpmError, TpmIntegrity, TpmNotOurs
from node.hwbind.software import NoTpm
from node.hwbind.tpm import Tpm
from protocol.evidence import ClockInfo

T = TypeVar("T")

_SRK_PERSISTENT = 0x81000001
"""Handle of the persistent SRK (TCG TPM v2.0 Provisioning Guidance, 7.5.1)."""

QUALIFYING_BYTES_MAX = 64
"""Longest qualifying data of `TPM2_Certify`: TPM2B_DATA has room for the largest digest."""

_OURS = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"


@functools.cache
def _template(attributes: str) -> TPM2B_PUBLIC:
    """A template of a signing key. Made at its first use: an agent that runs makes no key."""
    return TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=f"{_OURS}|{attributes}")


@functools.cache
def _srk_template() -> bytes:
    """The template of the storage key, a `TPMT_PUBLIC`."""
    template = TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=f"{_OURS}|decrypt|restricted")
    template.publicArea.unique = TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=bytes(32), y=bytes(32)))
    return bytes(template.publicArea.marshal())


_USABLE = (
    TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
    | TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
)
"""Attributes of a persistent storage key on which the empty password can be tried without risk."""


SOFTWARE_PARENT = b"software"
"""In the place of a parent's name: the key is a software key. A TPM's name begins with the number of its digest."""


class WrappedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key as it is stored: `TPMT_PUBLIC`, the wrapped private part, and the name of the parent that can load it.

    `parent_public` is the `TPMT_PUBLIC` of the parent; None for a key that an older agent stored.

    No part is secret, because the chip encrypts the private part. If the chip can make no storage key with the parent's
    name, it is another chip or was cleared.

    A software key has SOFTWARE_PARENT, a SubjectPublicKeyInfo and a PKCS#8 key. Its private part is secret. No `repr`
    shows a private part.
    """

    public: bytes
    private: bytes
    parent: bytes
    parent_public: bytes | None = None

    def __repr__(self) -> str:
        return f"WrappedKey(public={self.public!r}, parent={self.parent!r})"

    @property
    def name(self) -> bytes:
        """The TPM's name of the key: algorithm and SHA-256 over `TPMT_PUBLIC` (TPM 2.0 Library Part 1, 16)."""
        return name_of(self.public)

    @property
    def in_software(self) -> bool:
        """Whether the key is a software key, and the node has no TPM."""
        return self.parent == SOFTWARE_PARENT

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public part as a key of `cryptography`. Raises TpmIntegrity."""
        if self.in_software:
            with _integrity():
                return software.public_key(self.public)
        return _public_key(self.public)


@functools.lru_cache(maxsize=8)
def _public_key(public: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a `TPMT_PUBLIC`. A start asks for the same key seven times. Raises TpmIntegrity."""
    area = parse(TPMT_PUBLIC, public)
    if area.type != TPM2_ALG.ECC or area.parameters.eccDetail.curveID != TPM2_ECC.NIST_P256:
        raise TpmIntegrity("a stored key is not a P-256 key")
    x, y = (int.from_bytes(bytes(part), "big") for part in (area.unique.ecc.x, area.unique.ecc.y))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise TpmIntegrity("a stored key is not a point of its curve") from error


NO_KEY = WrappedKey(b"", b"", b"")
"""In the place of the AK of a node without a TPM."""


def key_hash(public_key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the SubjectPublicKeyInfo in DER, in hex, as a lease names a node key."""
    return hashlib.sha256(
        public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def key_hashes(*node_keys: WrappedKey) -> tuple[str, ...]:
    """`key_hash` of each key. A key that cannot be read is left out: no TPM uses it, and no lease names it."""
    hashes = []
    for node_key in node_keys:
        with contextlib.suppress(TpmError):
            hashes.append(key_hash(node_key.public_key()))
    return tuple(hashes)


class Certification(msgspec.Struct, frozen=True):
    """`TPMS_ATTEST` about a key, and the AK's `TPMT_SIGNATURE` over it."""

    attestation: bytes
    signature: bytes


def name_of(public: bytes) -> bytes:
    """The TPM's name of a `TPMT_PUBLIC` whose name algorithm is SHA-256 (TPM 2.0 Library Part 1, 16)."""
    return b"\x00\x0b" + hashlib.sha256(public).digest()


def create_ak(esys: ESAPI) -> WrappedKey:
    """Make an attestation key. It is returned wrapped; the TPM keeps nothing."""
    return _create(esys, _template("sign|restricted"))


def create_node_key(esys: ESAPI) -> WrappedKey:
    """Make a node key. It is returned wrapped; the TPM keeps nothing."""
    return _create(esys, _template("sign"))


def create_software_key() -> WrappedKey:
    """Make a node key of the tier `software`."""
    public, private = software.make()
    return WrappedKey(public, private, SOFTWARE_PARENT)


def holder_of(tpm: Tpm, key: WrappedKey) -> Tpm | NoTpm:
    """The port that does the work of the key: the TPM, or none for a software key."""
    return NoTpm(tpm.mode) if key.in_software else tpm


@contextlib.contextmanager
def _integrity() -> Iterator[None]:
    """Raise a damaged software key as TpmIntegrity, as a damaged key of a TPM."""
    try:
        yield
    except software.KeyUnreadable as error:
        raise TpmIntegrity(f"a stored key is damaged: {error}") from error


@contextlib.contextmanager
def loaded(esys: ESAPI, *keys: WrappedKey) -> Iterator[tuple[ESYS_TR, ...]]:
    """Load keys, and flush them at the end of the block. Yields their handles in the same order.

    Keys may have different parents, because a rekey uses the storage key of its time. Raises TpmNotOurs if this chip
    cannot make the parent of a key, TpmIntegrity if a blob is no TPM structure or the parent did not wrap it.
    """
    with contextlib.ExitStack() as stack:
        handles = {}
        for parent in dict.fromkeys(key.parent for key in keys):
            children = [key for key in keys if key.parent == parent]
            for key, handle in zip(children, _load(esys, children), strict=True):
                stack.callback(flush, esys, handle)
                handles[key] = handle
        yield tuple(handles[key] for key in keys)


def _load(esys: ESAPI, children: list[WrappedKey]) -> list[ESYS_TR]:
    """Load keys of one parent. If one fails, the others are flushed."""
    blobs = [
        (parse(TPM2B_PRIVATE, _sized(key.private)), TPM2B_PUBLIC(publicArea=parse(TPMT_PUBLIC, key.public)))
        for key in children
    ]

    def load(parent: ESYS_TR) -> list[ESYS_TR]:
        with contextlib.ExitStack() as undo:
            handles = []
            for private, public in blobs:
                handles.append(esys.load(parent, private, public))
                undo.callback(flush, esys, handles[-1])
            undo.pop_all()
            return handles

    try:
        return _under_parent(esys, children[0], load)[0]
    except TSS2_Exception as error:
        # The parent has the recorded name, so this is the chip that wrapped the key.
        if faults.wrong_parent(error):
            raise TpmIntegrity(
                "the storage key did not wrap a stored key; the file is damaged or was edited"
            ) from error
        if faults.about_parameter(error):
            raise TpmIntegrity("the TPM cannot read a stored key") from error
        raise


def sign(esys: ESAPI, key: WrappedKey, message: bytes, handle: ESYS_TR | None = None) -> bytes:
    """Sign `message` with ECDSA and SHA-256. Returns DER (ECDSA-Sig-Value, RFC 3279 section 2.2.3).

    `handle` is that of the key if the key is loaded already.
    """
    return sign_digest(esys, key, hashlib.sha256(message).digest(), handle)


def sign_digest(esys: ESAPI, key: WrappedKey, digest: bytes, handle: ESYS_TR | None = None) -> bytes:
    """As `sign`, for the SHA-256 digest (32 bytes) of a message."""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("the digest does not have the length of SHA-256")
    if key.in_software:
        with _integrity():
            return software.sign_digest(key.private, key.public, digest)
    scheme = TPMT_SIG_SCHEME(
        scheme=TPM2_ALG.ECDSA, details=TPMU_SIG_SCHEME(any=TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256))
    )
    ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
    with contextlib.nullcontext((handle,)) if handle is not None else loaded(esys, key) as (signer,):
        signature = esys.sign(signer, digest, scheme, ticket)
    r, s = (int.from_bytes(bytes(part), "big") for part in _ecdsa_parts(signature))
    return encode_dss_signature(r, s)


def certificate_request(esys: ESAPI, key: WrappedKey) -> bytes:
    """A PKCS#10 request (RFC 2986) in DER that proves possession of `key`.

    Subject and extensions are empty, because the issuer's profile decides the content of the certificate.
    """
    if key.in_software:
        with _integrity():
            return software.certificate_request(key.private, key.public)
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
    (private, public, *_), parent = _under_parent(esys, None, lambda handle: esys.create(handle, None, template))
    return WrappedKey(
        public=bytes(public.publicArea.marshal()),
        private=bytes(private),
        parent=parent.name,
        parent_public=parent.public if name_of(parent.public) == parent.name else None,
    )


class _StorageKey(NamedTuple):
    """A storage key: name and `TPMT_PUBLIC`."""

    name: bytes
    public: bytes


def _under_parent(esys: ESAPI, child: WrappedKey | None, use: Callable[[ESYS_TR], T]) -> tuple[T, _StorageKey]:
    """Do `use` with the handle of a storage key: the persistent SRK, or else a primary key (0.1-1 s on a chip).

    The storage key is the parent of `child`; with None, for a new key, any storage key is used. An SRK under dictionary-
    attack protection or with a password is not used; the primary key of the same template needs no password. Raises
    TpmNotOurs if the chip can make no parent of `child`.
    """
    with persistent_object(esys, _SRK_PERSISTENT) as found:
        persistent = None if found is None else _StorageKey(found[2], bytes(found[1].marshal()))
        if found is not None and persistent is not None:
            matches = child is None or child.parent == persistent.name
            if matches and (found[1].objectAttributes & _USABLE) == _USABLE:
                try:
                    return use(found[0]), persistent
                except TSS2_Exception as error:
                    if not faults.password_wanted(error):
                        raise
    if child is None:
        template = _srk_template()
    elif persistent is not None and child.parent == persistent.name:
        template = persistent.public
    elif child.parent_public is not None and name_of(child.parent_public) == child.parent:
        template = child.parent_public
    else:
        template = _srk_template()
    with primary_key(esys, ESYS_TR.OWNER, template, child.parent if child is not None else None) as made:
        if made is None:
            raise TpmNotOurs("the chip can make no storage key that is the parent of the node's keys")
        handle, name, public = made
        return use(handle), _StorageKey(name, public)


@contextlib.contextmanager
def primary_key(
    esys: ESAPI, hierarchy: ESYS_TR, template: bytes, name: bytes | None
) -> Iterator[tuple[ESYS_TR, bytes, bytes] | None]:
    """Make a primary key again from its public part, and flush it at the end of the block.

    The public part does not have the `unique` field of the first template. Both usual values are tried: zeros (TCG EK
    Credential Profile, B.2) and empty.

    Args:
        esys: a live context.
        hierarchy: the hierarchy of the key.
        template: the `TPMT_PUBLIC` of the key.
        name: the name that the key has; None if any key of the template will do.

    Yields handle, name and `TPMT_PUBLIC` of the key; None if the chip makes no key with this name.
    """
    for unique in _uniques(template):
        area = parse(TPMT_PUBLIC, template)
        area.unique = unique
        handle, public, *_ = esys.create_primary(None, TPM2B_PUBLIC(publicArea=area), hierarchy)
        try:
            made = bytes(esys.read_public(handle)[1])
            if name in (None, made):
                yield handle, made, bytes(public.publicArea.marshal())
                return
        finally:
            flush(esys, handle)
    yield None


def _uniques(template: bytes) -> tuple[TPMU_PUBLIC_ID, ...]:
    area = parse(TPMT_PUBLIC, template)
    if area.type == TPM2_ALG.RSA:
        return TPMU_PUBLIC_ID(rsa=bytes(area.parameters.rsaDetail.keyBits // 8)), TPMU_PUBLIC_ID(rsa=b"")
    if area.type == TPM2_ALG.ECC:
        size = max(len(bytes(area.unique.ecc.x)), len(bytes(area.unique.ecc.y)))
        zeros = TPMS_ECC_POINT(x=bytes(size), y=bytes(size))
        return TPMU_PUBLIC_ID(ecc=zeros), TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=b"", y=b""))
    return ()


@contextlib.contextmanager
def persistent_object(esys: ESAPI, handle: int) -> Iterator[tuple[ESYS_TR, TPMT_PUBLIC, bytes] | None]:
    """ESAPI's handle, public part and name of a persistent object; None if the TPM has no object at `handle`."""
    try:
        reference = esys.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if not faults.no_such_handle(error):
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
