"""The JWS envelope: literal vectors of every signed document, refused headers, and single-byte changes."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.limits import ENVELOPE_BYTES_MAX
from protocol.messages.sessions import ProofError, open_proof
from protocol.signed import freshness as fresh
from protocol.signed.envelope import EnvelopeError, covers, open_envelope, verify_signature
from protocol.signed.statements import (
    StatementError,
    verify_statement,
)
from tests.protocol.vectors import examples
from tests.protocol.vectors.__main__ import made, vectors

VECTORS = vectors()


def test_vectors_are_literal() -> None:
    assert made() == VECTORS


def verify_any(name: str, token: str) -> None:
    """Verify a token as the document of the vector `name`. Raises the errors of the verification."""
    if name == "session-proof":
        open_proof(token, examples.KEYS["node"].public_key())
    elif name == "freshness":
        open_envelope(token, fresh.TYP_FRESHNESS, examples.ring())
    else:
        verify_statement(token, examples.ring(), examples.TRUST_DOMAIN)


LONG = {"lease-v2": 5, "lease-v2-final": 23}
"""The other documents are changed at each position; of these every fifth, or every 23rd."""


@pytest.mark.parametrize("name", VECTORS)
def test_any_single_character_change_never_verifies(name: str) -> None:
    """Change every position to the neighbouring letter, which changes loose trailing bits.

    Some positions also change to a random letter.
    """
    token = VECTORS[name]["token"]
    verify_any(name, token)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    rng = random.Random(1)
    for position, letter in list(enumerate(token))[:: LONG.get(name, 1)]:
        neighbour = alphabet[(alphabet.index(letter) ^ 1) % len(alphabet)]
        others = {neighbour} if position % 8 else {neighbour, rng.choice(alphabet)}
        for other in others - {letter}:
            with pytest.raises((EnvelopeError, StatementError, ProofError)):
                verify_any(name, token[:position] + other + token[position + 1 :])


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("damage", ["", "=", "\n", " ", "A", "."])
def test_longer_and_shorter_tokens_never_verify(name: str, damage: str) -> None:
    token = VECTORS[name]["token"]
    changed = token + damage if damage else token[:-1]
    with pytest.raises((EnvelopeError, StatementError, ProofError)):
        verify_any(name, changed)


HEADER_MUTATIONS: dict[str, tuple[Callable[[], str], int]] = {
    "too long": (lambda: VECTORS["lease"]["token"] + "A" * ENVELOPE_BYTES_MAX, 1),
    "two parts": (lambda: VECTORS["lease"]["token"].rpartition(".")[0], 1),
    "not base64url": (lambda: "*" + VECTORS["lease"]["token"][1:], 2),
}


@pytest.mark.parametrize("name", HEADER_MUTATIONS)
def test_one_mutation_of_the_form(name: str) -> None:
    make, step = HEADER_MUTATIONS[name]
    with pytest.raises(EnvelopeError) as caught:
        verify_statement(make(), examples.ring(), examples.TRUST_DOMAIN)
    assert caught.value.step == step


@pytest.mark.parametrize(
    ("header", "step"),
    [
        (b'{"alg":"none","kid":"K","typ":"T"}', 3),
        (b'{"alg":"HS256","kid":"K","typ":"T"}', 3),
        (b'{"alg":"ES256","kid":"K","typ":"U"}', 4),
        (b'{"alg":"ES256", "kid":"K","typ":"T"}', 2),
        (b'{"kid":"K","alg":"ES256","typ":"T"}', 2),
        (b'{"alg":"ES256","kid":"K","typ":"T","crit":["x"]}', 2),
        (b'{"alg":"ES256","kid":"K","typ":"T","jwk":{}}', 2),
    ],
)
def test_headers_that_are_refused(header: bytes, step: int) -> None:
    """Algorithm confusion, another type, other encodings, and headers with `crit` or a key."""
    from protocol.encoding import b64url_encode

    token = ".".join(b64url_encode(part) for part in (header, b"{}", bytes(64)))
    with pytest.raises(EnvelopeError) as caught:
        verify_signature(token, "T", examples.KEYS["lease"].public_key())
    assert caught.value.step == step


def test_covers_is_half_open() -> None:
    key = examples.verification_key("lease")
    assert covers(key, key.not_before)
    assert not covers(key, key.not_after)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_the_payload_or_signature_never_verifies(data: st.DataObject) -> None:
    from protocol.encoding import b64url_decode, b64url_encode

    name = data.draw(st.sampled_from(sorted(VECTORS)))
    parts = [bytearray(b64url_decode(part)) for part in VECTORS[name]["token"].split(".")]
    part = parts[data.draw(st.integers(0, 2))]
    position = data.draw(st.integers(0, len(part) - 1))
    part[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises((EnvelopeError, StatementError, ProofError)):
        verify_any(name, ".".join(b64url_encode(bytes(part)) for part in parts))
