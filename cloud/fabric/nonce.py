"""Pure: the server's nonces for session proofs, a time and a MAC, so that no row is kept for them.

A nonce says only "made by this cloud, not long ago". It may be used again within its life: what must not happen
twice is bound to the whole proof (the issuer answers a repeated proof with the same certificate). Key, time and
entropy are arguments.
"""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

from protocol.encoding import EncodingError, b64url_decode, b64url_encode
from protocol.limits import CLOCK_SKEW, NONCE_LIFE

KEY_BYTES = 32
SALT_BYTES = 12
_TIME_BYTES = 8
_MAC_BYTES = 32
_CONTEXT = b"cascade-session-nonce-1"


class NonceError(ValueError):
    """The nonce is not ours, or too old."""


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, _CONTEXT + body, hashlib.sha256).digest()


def make_nonce(key: bytes, now: datetime, salt: bytes) -> str:
    """A nonce that `check_nonce` takes for `NONCE_LIFE` from `now`."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a nonce takes {SALT_BYTES} bytes of entropy")
    body = int(now.timestamp() * 1000).to_bytes(_TIME_BYTES, "big") + salt
    return b64url_encode(body + _mac(key, body))


def check_nonce(key: bytes, nonce: str, now: datetime) -> None:
    """1 form; 2 MAC, in constant time; 3 age, with the skew of two replicas' clocks. Raises NonceError."""
    try:
        data = b64url_decode(nonce)
    except EncodingError as error:
        raise NonceError("the nonce cannot be read") from error
    if len(data) != _TIME_BYTES + SALT_BYTES + _MAC_BYTES:
        raise NonceError("the nonce cannot be read")
    body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, body)):
        raise NonceError("the nonce is not from here")
    made_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int.from_bytes(body[:_TIME_BYTES], "big"))
    if not -CLOCK_SKEW <= now - made_at <= NONCE_LIFE:
        raise NonceError("the nonce is too old")
