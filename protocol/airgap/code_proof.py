"""Pure functions: prove in a request that the machine has an activation or recovery code, without showing the code.

Request files are carried, mailed and printed. A code in the clear would be a seat, or a node, for every reader of the
file. So the code is the seed of an Ed25519 key (RFC 8032): the cloud stores the public key when the code is made, and
the request has a signature over its own id and node key. A reader of the file learns the public key, and cannot use the
code for another node key. A reader of the cloud's database cannot make a proof either.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.encoding import EncodingError, b64url_decode, b64url_encode, sha256, sha256_hex
from protocol.ids import AirgapRequestId

_SEED = b"cascade-airgap-code-1\n"
_CONTEXT = b"cascade-airgap-code-proof-1\n"
_KEY_BYTES = 32


class CodeProofInvalid(ValueError):
    """The text is no proof of a code for this request."""


def _private_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(_SEED + secret.strip().lower().encode()))


def _message(request: AirgapRequestId, public_key: bytes) -> bytes:
    return _CONTEXT + f"{request}\n{sha256_hex(public_key)}".encode()


def proof_key(secret: str) -> str:
    """The public key of a code in hex, which the cloud stores. White space around `secret` and its case are ignored."""
    return _private_key(secret).public_key().public_bytes_raw().hex()


def prove_code(secret: str, request: AirgapRequestId, public_key: bytes) -> str:
    """The proof for a request with this id and node key (SubjectPublicKeyInfo, DER): public key, `.`, signature."""
    key = _private_key(secret)
    signature = key.sign(_message(request, public_key))
    return f"{b64url_encode(key.public_key().public_bytes_raw())}.{b64url_encode(signature)}"


def open_code_proof(text: str, request: AirgapRequestId, public_key: bytes) -> str:
    """The public key (hex) of the code that a proof is of. 1 its form; 2 its signature. Raises CodeProofInvalid.

    The caller looks up the code by this key.
    """
    key, _, signature = text.partition(".")
    try:
        raw = b64url_decode(key)
        if len(raw) != _KEY_BYTES:
            raise EncodingError("another length")
        Ed25519PublicKey.from_public_bytes(raw).verify(b64url_decode(signature), _message(request, public_key))
    except (EncodingError, InvalidSignature, ValueError) as error:
        raise CodeProofInvalid("the request has no valid proof of a code") from error
    return raw.hex()
