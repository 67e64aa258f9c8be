"""Secrets that people handle: round trips, and mistyped letters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codes import (
    ENTROPY_BYTES,
    RECOVERY_ENTROPY_BYTES,
    SecretFormatError,
    make_recovery_code,
    make_secret,
    parse_recovery_code,
    parse_secret,
    secret_hash,
)


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


RECOVERY_ENTROPY = st.binary(min_size=RECOVERY_ENTROPY_BYTES, max_size=RECOVERY_ENTROPY_BYTES)
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def test_a_recovery_code_is_written_as_six_groups() -> None:
    assert make_recovery_code(bytes.fromhex("0123456789abcdeffffffffff0")) == "04HM-ASW9-NF6Y-ZZZZ-ZZZZ-SKVG"
    assert make_recovery_code(bytes(13)) == "0000-0000-0000-0000-0000-0000"


@given(RECOVERY_ENTROPY)
def test_recovery_codes_round_trip_in_every_way_of_writing(entropy: bytes) -> None:
    code = make_recovery_code(entropy)
    letters = code.replace("-", "")
    for written in (
        code,
        letters,
        letters.lower(),
        f"  {code.lower()}\n",
        " ".join(letters),
        code.replace("-", "\u2013"),
        code.replace("0", "O").replace("1", "I"),
        code.replace("0", "o").replace("1", "l"),
        code.replace("1", "L"),
    ):
        assert parse_recovery_code(written) == code


@settings(max_examples=3, deadline=None)
@given(RECOVERY_ENTROPY)
def test_every_wrong_letter_and_every_swap_of_neighbours_is_noticed(entropy: bytes) -> None:
    """All of them for each code: 24 places with 31 other letters, and 23 swaps. The check is linear: few codes suffice."""
    letters = make_recovery_code(entropy).replace("-", "")
    wrong = {letters[:at] + other + letters[at + 1 :] for at in range(24) for other in ALPHABET}
    wrong |= {letters[:at] + letters[at + 1] + letters[at] + letters[at + 2 :] for at in range(23)}
    for text in wrong - {letters}:
        with pytest.raises(SecretFormatError, match="mistyped"):
            parse_recovery_code(text)


@given(RECOVERY_ENTROPY, st.dictionaries(st.integers(0, 23), st.integers(1, 31), min_size=1, max_size=4))
def test_up_to_four_wrong_letters_are_noticed(entropy: bytes, shifts: dict[int, int]) -> None:
    letters = list(make_recovery_code(entropy).replace("-", ""))
    for at, shift in shifts.items():
        letters[at] = ALPHABET[(ALPHABET.index(letters[at]) + shift) % 32]
    with pytest.raises(SecretFormatError, match="mistyped"):
        parse_recovery_code("".join(letters))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "24 letters"),
        ("0000-0000-0000-0000-0000-000", "24 letters"),
        ("0000-0000-0000-0000-0000-0000-0", "24 letters"),
        ("U000-0000-0000-0000-0000-0000", "without u"),
        ("\u0660000-0000-0000-0000-0000-0000", "without u"),
        (make_secret("cac", bytes(20)), "24 letters"),
    ],
)
def test_other_texts_are_no_recovery_codes(text: str, why: str) -> None:
    with pytest.raises(SecretFormatError, match=why):
        parse_recovery_code(text)


def test_recovery_codes_take_all_their_entropy() -> None:
    with pytest.raises(ValueError, match="13 bytes"):
        make_recovery_code(bytes(12))
    seen = {make_recovery_code((1 << bit).to_bytes(13, "big")) for bit in range(4, 104)}
    assert len(seen) == 100
