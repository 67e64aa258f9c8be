"""Adapter: the endorsement key (EK) of the chip, and its certificate. The functions run inside `Tpm.call`.

The EK identifies the chip. The key can only decrypt. Its certificate is in NV memory.
The rules of `keys.py` apply here as well.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
)

from node.hwbind.keys import WrappedKey, flush, loaded, parse, persistent_object

EkType = Literal["rsa-2048", "ecc-p256", "ecc-p384"]
"""The types of endorsement keys that a chip may have (TCG EK Credential Profile). One EK identifies the chip."""

DEFAULT_EK_TYPE: EkType = "rsa-2048"

_EK_TEMPLATES: dict[EkType, str] = {
    "rsa-2048": "EK-RSA2048",
    "ecc-p256": "EK-ECC256",
    "ecc-p384": "EK-HIGH-ECC384",
}
_EK_PERSISTENT = 0x81010001
"""Handle of the persistent RSA EK (TCG PC Client Platform TPM Profile, reserved handles)."""


class Endorsement(msgspec.Struct, frozen=True):
    """The EK as `TPMT_PUBLIC`, and its certificate in DER; None if the manufacturer stored none."""

    public: bytes
    certificate: bytes | None


def read_endorsement(esys: ESAPI, ek_type: EkType = DEFAULT_EK_TYPE) -> Endorsement:
    """The EK that identifies the chip, and its certificate.

    A TPM that cannot make the EK raises TpmFailed through `Tpm.call`. The library raises ValueError for `ecc-p384` when
    the chip has no EK certificate of this type.
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
    """The secret of a challenge (`TPM2_MakeCredential`) that was made for this chip's EK and this AK.

    Args:
        esys: a live context.
        ak: the AK that the challenge names.
        credential_blob: a marshalled `TPM2B_ID_OBJECT`.
        encrypted_secret: a marshalled `TPM2B_ENCRYPTED_SECRET`.
        ek_type: the type of the EK that the challenge was made for.

    Raises TpmIntegrity if an argument is no such structure, or the challenge was made for another EK or AK.
    """
    blob = parse(TPM2B_ID_OBJECT, credential_blob)
    secret = parse(TPM2B_ENCRYPTED_SECRET, encrypted_secret)
    with (
        loaded(esys, ak) as (ak_handle,),
        _endorsement_key(esys, ek_type) as (ek_handle, public, _),
        _endorsement_authorisation(esys, public) as authorisation,
    ):
        released = esys.activate_credential(
            ak_handle, ek_handle, blob, secret, session1=ESYS_TR.PASSWORD, session2=authorisation
        )
    return bytes(released)


@contextlib.contextmanager
def _endorsement_key(esys: ESAPI, ek_type: EkType) -> Iterator[tuple[ESYS_TR, TPMT_PUBLIC, bytes | None]]:
    """Handle, public part and certificate of the EK.

    The persistent EK is used if it is the key in the certificate. Otherwise the EK is made again from its template.
    """
    # This import and the one in `certificate_request` are slow. Only an activation or a renewal needs them, not a
    # start.
    from tpm2_pytss.utils import NVReadEK, create_ek_template

    stored, template = create_ek_template(_EK_TEMPLATES[ek_type], NVReadEK(esys))
    certificate = _exact_der(bytes(stored)) if stored else None
    if ek_type == "rsa-2048" and certificate is not None:
        with persistent_object(esys, _EK_PERSISTENT) as persistent:
            if persistent is not None and _certified_modulus(certificate) == _modulus(persistent[1]):
                yield persistent[0], persistent[1], certificate
                return
    handle, public, *_ = esys.create_primary(None, template, ESYS_TR.ENDORSEMENT)
    try:
        yield handle, public.publicArea, certificate
    finally:
        flush(esys, handle)


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


def _exact_der(stored: bytes) -> bytes:
    """A certificate without the padding that manufacturers leave after it in NV memory.

    The length is read from the DER header (X.690 8.1.3: long form with two bytes).
    """
    if len(stored) >= 4 and stored[:2] == b"\x30\x82":
        return stored[: 4 + int.from_bytes(stored[2:4], "big")]
    return stored


def _certified_modulus(certificate: bytes) -> int | None:
    """The RSA modulus of a certificate; None if it has none or cannot be read. The verifier checks the certificate."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, TypeError):
        return None
    return key.public_numbers().n if isinstance(key, rsa.RSAPublicKey) else None


def _modulus(public: TPMT_PUBLIC) -> int | None:
    return int.from_bytes(bytes(public.unique.rsa), "big") if public.type == TPM2_ALG.RSA else None
