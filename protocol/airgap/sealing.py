"""Pure functions: seal the body of an answer to one chip, and open it.

The cloud draws a secret of 32 bytes and encrypts it with `TPM2_MakeCredential` to the EK and the name of the AK. Only
the TPM that holds both keys releases the secret (`TPM2_ActivateCredential`, TPM 2.0 Library Part 1, 24). So the answer
needs no round trip to prove the chip: another machine cannot open it.

The key of AES-256-GCM is HKDF-SHA-256 (RFC 5869) of the secret, with the SHA-256 of the request's body as salt. The same
digest is the associated data, so the seal of one request does not open as that of another.

A seal keeps a secret; it is no signature. Anyone who knows EK and AK can make one. The signature of the answer says who
made the body.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.airgap.errors import SealUnopened

SECRET_BYTES = 32
IV_BYTES = 12
_DIGEST_BYTES = 32
_INFO = b"cascade-airgap-answer-1"


def _cipher(secret: bytes, request_sha256: bytes) -> AESGCM:
    if len(secret) != SECRET_BYTES or len(request_sha256) != _DIGEST_BYTES:
        raise ValueError("the secret and the digest of the request have 32 bytes each")
    return AESGCM(HKDF(algorithm=hashes.SHA256(), length=32, salt=request_sha256, info=_INFO).derive(secret))


def seal_body(body: bytes, secret: bytes, request_sha256: bytes, iv: bytes) -> bytes:
    """The ciphertext of a body.

    Args:
        body: the bytes of the body.
        secret: 32 random bytes, used for this answer only.
        request_sha256: SHA-256 of the request's body, 32 bytes.
        iv: 12 random bytes.

    Raises ValueError for an argument of another length.
    """
    if len(iv) != IV_BYTES:
        raise ValueError(f"the initialisation vector has {IV_BYTES} bytes")
    return _cipher(secret, request_sha256).encrypt(iv, body, request_sha256)


def open_sealed(ciphertext: bytes, secret: bytes, request_sha256: bytes, iv: bytes) -> bytes:
    """The body in a ciphertext. Arguments as `seal_body`. Raises SealUnopened."""
    try:
        return _cipher(secret, request_sha256).decrypt(iv, ciphertext, request_sha256)
    except (InvalidTag, ValueError) as error:
        raise SealUnopened("the seal does not open with this secret: it is for another request, or damaged") from error
