"""`cloud.fabric.licensing.renewal_tokens`: a token is read back, follows from its proof, and any change of it is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.fabric.licensing import renewal_tokens
from cloud.fabric.licensing.renewal_tokens import (
    FIRST_CHAIN,
    NO_TOKEN,
    RenewalToken,
    TokenInvalid,
    make_token,
    read_token,
)
from protocol.encoding import b64url_decode, b64url_encode
from protocol.ids import NodeId
from protocol.limits import RENEWAL_TOKEN_CHARS_MAX

KEY = bytes(range(32))
NODE = NodeId("node_01jd8xk3v5e2r9qz7w4m6n8p0a")
OTHER = NodeId("node_01jd8xk3v5e2r9qz7w4m6n8p0b")
LITERAL = "AQAAAAAAAAAAAAEAAAAAAAAAAE1RdabOYz-xtpopeg9D-GCT72B7sIF6sQ"


def make(proof: str = "a proof", number: int = 1, parent: str = NO_TOKEN, chain: str = FIRST_CHAIN) -> RenewalToken:
    return make_token(KEY, NODE, 1, chain=chain, number=number, parent=parent, proof=proof)


def test_the_literal_token() -> None:
    assert make().text == LITERAL
    assert len(LITERAL) <= RENEWAL_TOKEN_CHARS_MAX


@given(st.integers(1, renewal_tokens.NUMBER_MAX), st.binary(min_size=8, max_size=8), st.binary(min_size=4, max_size=4))
def test_a_token_is_read_back(number: int, parent: bytes, chain: bytes) -> None:
    made = make("x", number, parent.hex(), chain.hex())
    assert read_token(KEY, NODE, 1, made.text) == made
    assert (made.number, made.parent, made.chain) == (number, parent.hex(), chain.hex())


def test_a_repeated_proof_gets_the_same_token_and_another_proof_another() -> None:
    assert make("one") == make("one")
    assert make("one").digest != make("two").digest


@pytest.mark.parametrize(
    ("key", "node", "generation"), [(bytes(32), NODE, 1), (KEY, OTHER, 1), (KEY, NODE, 2), (KEY, NODE, 11)]
)
def test_a_token_of_another_cloud_node_or_generation(key: bytes, node: NodeId, generation: int) -> None:
    with pytest.raises(TokenInvalid, match="did not make"):
        read_token(key, node, generation, LITERAL)


@given(st.integers(0, len(b64url_decode(LITERAL)) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(position: int, change: int) -> None:
    data = bytearray(b64url_decode(LITERAL))
    data[position] ^= change
    with pytest.raises(TokenInvalid):
        read_token(KEY, NODE, 1, b64url_encode(bytes(data)))


@pytest.mark.parametrize("text", ["", "A", LITERAL[:-4], LITERAL + "AAAA", "=" * 58, "\u00e9" * 58])
def test_malformed_tokens(text: str) -> None:
    with pytest.raises(TokenInvalid, match="cannot be read"):
        read_token(KEY, NODE, 1, text)
