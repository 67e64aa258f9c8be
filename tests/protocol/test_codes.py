"""Secrets that people handle: round trips, and mistyped letters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import ENTROPY_BYTES, SecretFormatError, make_secret, parse_secret, secret_hash


@given(st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES))
def test_secrets_round_trip(entropy: bytes) -> None:
    secret = make_secret("cac", entropy)
    assert parse_secret("cac", f"  {secret.upper()}\n") == secret
    assert len(secret_hash(secret)) == 64
    with pytest.raises(SecretFormatError):
        parse_secret("cot", secret)


@given(st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES), st.integers(4, 41), st.integers(1, 31))
def test_a_mistyped_letter_is_noticed(entropy: bytes, position: int, shift: int) -> None:
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    secret = make_secret("cac", entropy)
    other = alphabet[(alphabet.index(secret[position]) + shift) % 32]
    with pytest.raises(SecretFormatError):
        parse_secret("cac", secret[:position] + other + secret[position + 1 :])


def test_secrets_take_all_their_entropy() -> None:
    with pytest.raises(ValueError, match="20 bytes"):
        make_secret("cac", bytes(19))
