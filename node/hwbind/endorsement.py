"""Adapter: the endorsement keys (EK) of the chip, and their certificates. The functions run inside `Tpm.call`.

An EK identifies the chip. The key can only decrypt. Its certificate is in NV memory; an on-die CA stores its own CA
certificates there as well. The agent reads them as they are. The verifier in the cloud judges them.
The rules of `keys.py` and `nv.py` apply here as well.

Source: TCG EK Credential Profile for TPM Family 2.0, v2.5, 2.2.1 (NV indices) and annex B (templates).
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPMS_ECC_POINT,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMU_PUBLIC_ID,
)

from node.hwbind import faults, nv
from node.hwbind.errors import TpmFailed, TpmIntegrity
from node.hwbind.keys import WrappedKey, flush, loaded, parse, persistent_object
from node.hwbind.nv import NvContent
from protocol.endorsement import DEFAULT_EK_TYPE, TEMPLATES, EkType, name_of
from protocol.limits import EK_CERTIFICATE_BYTES_MAX, EK_CHAIN_BYTES_MAX, EK_CHAIN_CERTIFICATES_MAX
from protocol.maker_certificates import (
    CertificateUnreadable,
    exact_certificate,
    read_certificate,
    split_certificates,
)

EK_TYPES: tuple[EkType, ...] = get_args(EkType)

_EK_PERSISTENT = 0x81010001
"""Handle of the persistent RSA EK (TCG PC Client Platform TPM Profile, reserved handles)."""

_FIRST, _LAST = 0x01C00000, 0x01C000FF
"""NV indices of EK certificates, nonces and templates."""
_CHAIN_FIRST, _CHAIN_LAST = 0x01C00100, 0x01C001FF
"""NV indices of CA certificates: a concatenation of DER that may continue in the following index (profile, 2.2.1.5)."""

_NONCE_SIZES: Mapping[EkType, int] = {"rsa2048": 256, "ecc_p256": 32}


class Endorsement(msgspec.Struct, frozen=True):
    """An EK as `TPMT_PUBLIC`, and its certificate in DER; None if NV memory has no readable certificate.

    `template` says where the template of the key is from, for people.
    """

    ek_type: EkType
    public: bytes
    certificate: bytes | None
    template: str = "default"

    @property
    def name(self) -> bytes:
        """The TPM name of the EK."""
        return name_of(self.public)


class Endorsements(msgspec.Struct, frozen=True):
    """The EKs that may identify the chip, the RSA one first, and the CA certificates (DER) that the chip stores."""

    keys: tuple[Endorsement, ...]
    intermediates: tuple[bytes, ...]


class Store(msgspec.Struct, frozen=True):
    """What the NV memory has about the EKs, by index, and the CA certificates (DER) of the chip."""

    contents: Mapping[int, NvContent]
    intermediates: tuple[bytes, ...]

    def content(self, index: int | None) -> bytes | None:
        found = self.contents.get(index) if index is not None else None
        return found.content if found is not None else None

    def certificate(self, ek_type: EkType) -> bytes | None:
        """The certificate of an EK without the padding behind it; None if NV has none, or one that is too large.

        An index that has padding only has no certificate.
        """
        stored = self.content(TEMPLATES[ek_type].certificate_index) or b""
        exact = exact_certificate(stored) if stored.strip(b"\0\xff") else b""
        return exact if 0 < len(exact) <= EK_CERTIFICATE_BYTES_MAX else None


def read_store(esys: ESAPI) -> Store:
    """Read the NV indices of the EK profile. An index that cannot be read is in the result with a note."""
    contents: dict[int, NvContent] = {}
    chain = b""
    following = _CHAIN_FIRST
    for index in nv.defined_indices(esys, _FIRST, _CHAIN_LAST):
        if _FIRST <= index <= _LAST:
            contents[index] = nv.read_index(esys, index)
        elif index == following and len(chain) < EK_CHAIN_BYTES_MAX:
            found = contents[index] = nv.read_index(esys, index)
            chain += found.content or b""
            following += 1
    intermediates: list[bytes] = split_certificates(chain, EK_CHAIN_CERTIFICATES_MAX)
    while sum(map(len, intermediates)) > EK_CHAIN_BYTES_MAX:
        intermediates.pop()
    return Store(contents, tuple(intermediates))


def read_endorsements(esys: ESAPI) -> Endorsements:
    """The RSA EK, and each other EK that has a certificate, with the CA certificates of the chip.

    A chip that cannot make an RSA EK is known by its other EKs. A TPM that can make none raises TpmFailed through
    `Tpm.call`.
    """
    store = read_store(esys)
    found: list[Endorsement] = []
    failure: TSS2_Exception | None = None
    for ek_type in EK_TYPES:
        if ek_type != DEFAULT_EK_TYPE and store.certificate(ek_type) is None:
            continue
        try:
            found.append(read_endorsement(esys, ek_type, store))
        except TSS2_Exception as error:
            if not isinstance(faults.classify(error), TpmFailed):
                raise
            failure = failure or error
    if not found and failure is not None:
        raise failure
    return Endorsements(tuple(found), store.intermediates)


def read_endorsement(esys: ESAPI, ek_type: EkType = DEFAULT_EK_TYPE, store: Store | None = None) -> Endorsement:
    """One EK of the chip, and its certificate. A TPM that cannot make the EK raises TpmFailed through `Tpm.call`."""
    store = store or read_store(esys)
    with _endorsement_key(esys, ek_type, store) as (_, public, template):
        return Endorsement(ek_type, bytes(public.marshal()), store.certificate(ek_type), template)


def activate_credential(
    esys: ESAPI, ak: WrappedKey, credential_blob: bytes, encrypted_secret: bytes, ek_name: bytes = b""
) -> bytes:
    """The secret of a challenge (`TPM2_MakeCredential`) that was made for this chip's EK and this AK.

    Args:
        esys: a live context.
        ak: the AK that the challenge names.
        credential_blob: a marshalled `TPM2B_ID_OBJECT`.
        encrypted_secret: a marshalled `TPM2B_ENCRYPTED_SECRET`.
        ek_name: the TPM name of the EK that the challenge was made for; empty for the EK of the default type.

    Raises TpmIntegrity if an argument is no such structure, or the challenge was made for another EK or AK.
    """
    blob = parse(TPM2B_ID_OBJECT, credential_blob)
    secret = parse(TPM2B_ENCRYPTED_SECRET, encrypted_secret)
    with (
        loaded(esys, ak) as (ak_handle,),
        _named_key(esys, ek_name) as (ek_handle, public),
        _endorsement_authorisation(esys, public) as authorisation,
    ):
        released = esys.activate_credential(
            ak_handle, ek_handle, blob, secret, session1=ESYS_TR.PASSWORD, session2=authorisation
        )
    return bytes(released)


@contextlib.contextmanager
def _named_key(esys: ESAPI, ek_name: bytes) -> Iterator[tuple[ESYS_TR, TPMT_PUBLIC]]:
    """Handle and public part of the EK with this name. ECC keys are tried first, because they are made quickly."""
    store = read_store(esys)
    for ek_type in reversed(EK_TYPES) if ek_name else (DEFAULT_EK_TYPE,):
        if ek_name and TEMPLATES[ek_type].head[2:4] != ek_name[:2]:
            continue
        with contextlib.ExitStack() as stack:
            try:
                handle, public, _ = stack.enter_context(_endorsement_key(esys, ek_type, store))
            except TSS2_Exception as error:
                if ek_type == DEFAULT_EK_TYPE or not isinstance(faults.classify(error), TpmFailed):
                    raise
                continue
            if not ek_name or name_of(bytes(public.marshal())) == ek_name:
                yield handle, public
                return
    raise TpmIntegrity("the challenge was made for another endorsement key")


@contextlib.contextmanager
def _endorsement_key(esys: ESAPI, ek_type: EkType, store: Store) -> Iterator[tuple[ESYS_TR, TPMT_PUBLIC, str]]:
    """Handle, public part and origin of the template of an EK.

    The persistent EK is used if it is the key in the certificate. Otherwise the EK is made again from its template.
    """
    certificate = store.certificate(ek_type)
    if ek_type == "rsa2048" and certificate is not None:
        with persistent_object(esys, _EK_PERSISTENT) as persistent:
            if persistent is not None and _certified_modulus(certificate) == _modulus(persistent[1]):
                yield persistent[0], persistent[1], f"persistent key at {_EK_PERSISTENT:#010x}"
                return
    area, origin = _template(ek_type, store)
    handle, public, *_ = esys.create_primary(None, TPM2B_PUBLIC(publicArea=area), ESYS_TR.ENDORSEMENT)
    try:
        yield handle, public.publicArea, origin
    finally:
        flush(esys, handle)


def _template(ek_type: EkType, store: Store) -> tuple[TPMT_PUBLIC, str]:
    """The template of an EK, from NV or the default one, with the nonce from NV. And the words for its origin."""
    default = TEMPLATES[ek_type]
    area, origin = parse(TPMT_PUBLIC, default.head + default.asked_unique), "default"
    stored = store.content(default.template_index)
    if stored is not None:
        try:
            given = parse(TPMT_PUBLIC, stored)
        except TpmIntegrity:
            origin = f"default; the one at {default.template_index:#010x} cannot be read"
        else:
            if given.type == area.type:
                area, origin = given, f"from {default.template_index:#010x}"
            else:
                origin = f"default; the one at {default.template_index:#010x} is for another kind of key"
    nonce = store.content(default.nonce_index)
    size = _NONCE_SIZES.get(ek_type, 0)
    if nonce and len(nonce) <= size:
        padded = nonce.ljust(size, b"\0")
        area.unique = (
            TPMU_PUBLIC_ID(rsa=padded)
            if area.type == TPM2_ALG.RSA
            else TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=padded, y=bytes(size)))
        )
        origin += f", with the nonce at {default.nonce_index:#010x}"
    return area, origin


@contextlib.contextmanager
def _endorsement_authorisation(esys: ESAPI, public: TPMT_PUBLIC) -> Iterator[ESYS_TR]:
    """The session that authorises the use of an EK: a policy session for the low-range templates, else a password."""
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
        flush(esys, session)


def _certified_modulus(certificate: bytes) -> int | None:
    """The RSA modulus of a certificate; None if it has none or cannot be read. The verifier checks the certificate."""
    try:
        key = read_certificate(certificate).key
    except CertificateUnreadable:
        return None
    return key.public_numbers().n if isinstance(key, rsa.RSAPublicKey) else None


def _modulus(public: TPMT_PUBLIC) -> int | None:
    return int.from_bytes(bytes(public.unique.rsa), "big") if public.type == TPM2_ALG.RSA else None
