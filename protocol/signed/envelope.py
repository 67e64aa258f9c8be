"""Pure functions: signed documents. A JWS in compact form (RFC 7515), ES256, with the header `alg`, `kid`, `typ`.

There is one algorithm and one encoding. A token verifies only if its bytes are those that `seal` makes, so every
changed byte makes it fail. `KeyRing`, from the published trust, decides which `kid` may sign which `typ`, and for which
dates. The token itself decides none of it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from protocol.encoding import EncodingError, b64url_decode, b64url_encode, json_decode, json_encode, sha256
from protocol.limits import ENVELOPE_BYTES_MAX

_COORDINATE_BYTES = 32


class EnvelopeError(ValueError):
    """The token does not verify. `step` is the number of the check in `open_envelope` that failed."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"{reason} (step {step})")
        self.step = step
        self.reason = reason


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protected header: exactly these three fields, in this order."""

    alg: str
    kid: str
    typ: str


class VerificationKey(msgspec.Struct, frozen=True):
    """A public key, the types it may sign (`typs`), and the dates of issue it covers (`not_before` <= t < `not_after`).

    A `withdrawn` key verifies no document, whatever its date.
    """

    kid: str
    typs: tuple[str, ...]
    public_key_der: bytes
    not_before: Annotated[datetime, msgspec.Meta(tz=True)]
    not_after: Annotated[datetime, msgspec.Meta(tz=True)]
    withdrawn: bool = False


class KeyRing:
    """The keys that may sign documents, by `kid`."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._keys = {key.kid: key for key in keys}

    def find(self, kid: str) -> VerificationKey | None:
        """The key with this id, or None."""
        return self._keys.get(kid)


class Opened(msgspec.Struct, frozen=True):
    """A token whose signature verified: `kid` and `typ` of its header, and the bytes of its payload."""

    kid: str
    typ: str
    payload: bytes


def key_id(public_key: ec.EllipticCurvePublicKey) -> str:
    """The `kid` of a key: the first 16 bytes of the SHA-256 of its SubjectPublicKeyInfo, in base64url."""
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b64url_encode(sha256(spki)[:16])


def signing_input(typ: str, kid: str, payload: bytes) -> bytes:
    """The bytes to sign. Separate from `seal`, so that a key in a TPM can sign their SHA-256."""
    header = json_encode(Header(alg="ES256", kid=kid, typ=typ))
    return f"{b64url_encode(header)}.{b64url_encode(payload)}".encode()


def assemble(signed: bytes, der_signature: bytes) -> str:
    """The token from its signing input and an ECDSA signature in DER. The token has r || s (RFC 7518 section 3.4)."""
    r, s = decode_dss_signature(der_signature)
    raw = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
    return f"{signed.decode()}.{b64url_encode(raw)}"


def seal(typ: str, kid: str, payload: bytes, private_key: ec.EllipticCurvePrivateKey) -> str:
    """Sign `payload` as `typ` with a P-256 key."""
    signed = signing_input(typ, kid, payload)
    return assemble(signed, private_key.sign(signed, ec.ECDSA(hashes.SHA256())))


def _split(token: str) -> tuple[Header, bytes, bytes]:
    if len(token) > ENVELOPE_BYTES_MAX:
        raise EnvelopeError(1, "the token is too long")
    parts = token.split(".")
    if len(parts) != 3:
        raise EnvelopeError(1, "not a compact JWS")
    try:
        header_bytes, payload, signature = (b64url_decode(part) for part in parts)
        header = json_decode(header_bytes, Header)
    except (EncodingError, msgspec.MsgspecError) as error:
        raise EnvelopeError(2, "header, payload or signature cannot be read") from error
    if json_encode(header) != header_bytes:
        raise EnvelopeError(2, "the header is not in the canonical encoding")
    return header, payload, signature


def verify_signature(token: str, typ: str, public_key: ec.EllipticCurvePublicKey) -> Opened:
    """Steps 1 to 4 and 6 of `open_envelope`, with a key that the caller knows (a node key). Raises EnvelopeError."""
    header, payload, signature = _split(token)
    if header.alg != "ES256":
        raise EnvelopeError(3, "the algorithm is not ES256")
    if header.typ != typ:
        raise EnvelopeError(4, f"the document is not of type {typ}")
    if len(signature) != 2 * _COORDINATE_BYTES:
        raise EnvelopeError(6, "the signature has a wrong length")
    r, s = (int.from_bytes(signature[i : i + _COORDINATE_BYTES], "big") for i in (0, _COORDINATE_BYTES))
    signed = token.rpartition(".")[0].encode()
    try:
        public_key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise EnvelopeError(6, "the signature does not verify") from error
    return Opened(kid=header.kid, typ=header.typ, payload=payload)


def peek_typ(token: str) -> str:
    """The unverified `typ` of a token. Use it only to choose the type to verify. Raises EnvelopeError."""
    return _split(token)[0].typ


def open_envelope(token: str, typ: str, ring: KeyRing, right: str = "") -> tuple[Opened, VerificationKey]:
    """Verify a signed document with the published keys. The caller checks the date of issue with `covers`.

    `right` is the `typ` that the key must be published for; by default it is `typ`.

    1. The token is not too long and has three parts.
    2. The parts can be read, and the header is in the canonical encoding.
    3. `alg` is ES256 (RFC 8725 section 3.1).
    4. `typ` is the expected one (RFC 8725 section 3.11).
    5. `kid` is published, not withdrawn, and may sign `right`; its key is on P-256.
    6. The signature verifies.

    Raises EnvelopeError with the number of the failed step.
    """
    header, _, _ = _split(token)
    if header.typ != typ:
        raise EnvelopeError(4, f"the document is not of type {typ}")
    key = ring.find(header.kid)
    if key is None:
        raise EnvelopeError(5, "the signing key is not published")
    if key.withdrawn:
        raise EnvelopeError(5, "the signing key is withdrawn")
    if (right or typ) not in key.typs:
        raise EnvelopeError(5, f"the signing key may not sign {typ}")
    try:
        public_key = serialization.load_der_public_key(key.public_key_der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnvelopeError(5, "the signing key cannot be read") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise EnvelopeError(5, "the signing key is not a P-256 key")
    return verify_signature(token, typ, public_key), key


def covers(key: VerificationKey, issued_at: datetime) -> bool:
    """Whether the key may sign documents that were issued at `issued_at` (aware)."""
    return key.not_before <= issued_at < key.not_after
