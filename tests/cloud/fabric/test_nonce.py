"""`cloud.fabric.nonce`: a nonce is accepted only if it is ours, unchanged and recent."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.fabric import nonce
from protocol.encoding import b64url_decode, b64url_encode
from protocol.limits import NONCE_LIFE

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

KEY = bytes(range(32))
MADE = nonce.make_nonce(KEY, NOW, bytes(nonce.SALT_BYTES))


@pytest.mark.parametrize("age", [-timedelta(minutes=5), timedelta(0), NONCE_LIFE])
def test_a_nonce_within_its_life(age: timedelta) -> None:
    nonce.check_nonce(KEY, MADE, NOW + age)


@pytest.mark.parametrize("age", [-timedelta(minutes=6), NONCE_LIFE + timedelta(milliseconds=1), timedelta(days=9)])
def test_a_nonce_out_of_its_life(age: timedelta) -> None:
    with pytest.raises(nonce.NonceError, match="old"):
        nonce.check_nonce(KEY, MADE, NOW + age)


@given(st.integers(0, len(b64url_decode(MADE)) - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_nonce_is_found(position: int, change: int) -> None:
    data = bytearray(b64url_decode(MADE))
    data[position] ^= change
    with pytest.raises(nonce.NonceError):
        nonce.check_nonce(KEY, b64url_encode(bytes(data)), NOW)


@pytest.mark.parametrize("text", ["", "A", MADE + "A", MADE[:-1], "=" * 70, "\u00e9"])
def test_malformed_nonces_are_refused(text: str) -> None:
    with pytest.raises(nonce.NonceError):
        nonce.check_nonce(KEY, text, NOW)


def test_another_key_makes_other_nonces() -> None:
    with pytest.raises(nonce.NonceError, match="this Fabric did not make"):
        nonce.check_nonce(bytes(32), MADE, NOW)
    with pytest.raises(ValueError, match="entropy"):
        nonce.make_nonce(KEY, NOW, b"short")
