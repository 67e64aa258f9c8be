"""Base64url: each value has one accepted text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.encoding import EncodingError, b64url_decode, b64url_encode


@given(st.binary(max_size=100))
def test_base64url_round_trips(data: bytes) -> None:
    assert b64url_decode(b64url_encode(data)) == data


@pytest.mark.parametrize("text", ["A", "AB==", "AB", "A+", "A/", "AA\n", " AA", "ä"])
def test_base64url_has_one_encoding_a_value(text: str) -> None:
    with pytest.raises(EncodingError):
        b64url_decode(text)
