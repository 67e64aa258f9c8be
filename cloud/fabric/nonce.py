"""Pure functions: make and check the server's nonces for session proofs.

A nonce is a time, a salt and a MAC, so the database stores no nonces. A valid nonce shows that this cloud made it a
short time ago. A nonce can be used again within its life. This is safe because the issuer identifies a request by the
hash of the whole proof: a repeated proof gets the same certificate. Key, time and entropy are arguments.
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
    """This cloud did not make the nonce, or the nonce is too old."""


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, _CONTEXT + body, hashlib.sha256).digest()


def make_nonce(key: bytes, now: datetime, salt: bytes) -> str:
    """A nonce that `check_nonce` accepts for `NONCE_LIFE` from `now`. `salt` has SALT_BYTES bytes of entropy."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a nonce takes {SALT_BYTES} bytes of entropy")
    body = int(now.timestamp() * 1000).to_bytes(_TIME_BYTES, "big") + salt
    return b64url_encode(body + _mac(key, body))


def check_nonce(key: bytes, nonce: str, now: datetime) -> datetime:
    """Check a nonce, and return when it was made: 1 its form; 2 its MAC, in constant time; 3 its age. Raises NonceError.

    A nonce may be made up to CLOCK_SKEW in the future, because the clocks of two replicas differ.
    """
    try:
        data = b64url_decode(nonce)
    except EncodingError as error:
        raise NonceError("the nonce cannot be read") from error
    if len(data) != _TIME_BYTES + SALT_BYTES + _MAC_BYTES:
        raise NonceError("the nonce cannot be read")
    body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, body)):
        raise NonceError("this Fabric did not make the nonce")
    made_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int.from_bytes(body[:_TIME_BYTES], "big"))
    if not -CLOCK_SKEW <= now - made_at <= NONCE_LIFE:
        raise NonceError("the nonce is too old")
    return made_at
