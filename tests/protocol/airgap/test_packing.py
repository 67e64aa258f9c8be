"""Packing: a round trip of any text, and damaged or too large packed forms are refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.airgap.errors import AirgapError, DocumentDamaged, DocumentTooLarge
from protocol.airgap.packing import pack, unpack
from protocol.encoding import b64url_encode

BYTES_MAX = 10_000
SAMPLE = b'{"token":"%s","der":"%s","digest":"%s"}' % (
    b64url_encode(bytes(range(60))).encode(),
    base64.b64encode(bytes(range(60, 120))),
    bytes(range(32)).hex().encode(),
)


def test_the_literal_example_is_the_format() -> None:
    assert pack(b'"%s"' % bytes(range(16)).hex().encode()).hex() == "0001220310000102030405060708090a0b0c0d0e0f000122"


def test_encoded_parts_are_packed_as_bytes() -> None:
    packed = pack(SAMPLE)
    assert len(packed) < len(SAMPLE) - 50
    for content in (bytes(range(60)), bytes(range(60, 120)), bytes(range(32))):
        assert content in packed
    assert unpack(packed, BYTES_MAX) == SAMPLE


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.binary(max_size=60).map(base64.b64encode),
            st.from_regex(rb"[A-Za-z0-9_=+/-]{0,60}", fullmatch=True),
        )
    )
)
def test_any_bytes_survive_a_round_trip(parts: list[bytes]) -> None:
    data = b'"'.join(parts)
    assert unpack(pack(data), BYTES_MAX) == data


def test_every_truncation_and_an_unknown_kind_are_refused() -> None:
    packed = pack(SAMPLE)
    whole = {length for length in range(len(packed)) if _reads(packed[:length])}
    assert all(SAMPLE.startswith(unpack(packed[:length], BYTES_MAX)) for length in whole)
    assert len(whole) < 10
    for damaged in (b"\x04\x00", b"\x00", b"\x00\xff\xff\xff\xff\x00", b"\x01\x02a"):
        with pytest.raises(DocumentDamaged):
            unpack(damaged, BYTES_MAX)


def _reads(data: bytes) -> bool:
    try:
        unpack(data, BYTES_MAX)
    except AirgapError:
        return False
    return True


def test_the_size_is_bounded() -> None:
    assert unpack(pack(bytes(100)), 100) == bytes(100)
    with pytest.raises(DocumentTooLarge, match="more than 99 bytes"):
        unpack(pack(bytes(100)), 99)
