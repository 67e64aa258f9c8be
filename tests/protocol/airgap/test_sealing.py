"""The seal: only the secret of its chip opens it, for its request only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.airgap.errors import SealUnopened
from protocol.airgap.sealing import IV_BYTES, open_sealed, seal_body

SECRET, DIGEST, IV = bytes(range(32)), bytes(range(32, 64)), bytes(range(12))
VECTOR = "a20e452f09ea1c9ceca166e8d368d12bfd0ce24e9cd24a"


def test_the_literal_example_is_the_format() -> None:
    assert seal_body(b"cascade", SECRET, DIGEST, IV).hex() == VECTOR


@given(st.binary(max_size=300))
def test_a_seal_survives_a_round_trip(body: bytes) -> None:
    assert open_sealed(seal_body(body, SECRET, DIGEST, IV), SECRET, DIGEST, IV) == body


@given(st.integers(0, 22), st.integers(1, 255))
def test_no_changed_byte_opens(at: int, shift: int) -> None:
    sealed = bytearray(seal_body(b"cascade", SECRET, DIGEST, IV))
    sealed[at] = (sealed[at] + shift) % 256
    with pytest.raises(SealUnopened):
        open_sealed(bytes(sealed), SECRET, DIGEST, IV)


def test_another_secret_request_or_length_does_not_open() -> None:
    sealed = seal_body(b"cascade", SECRET, DIGEST, IV)
    for secret, digest, iv in (
        (DIGEST, DIGEST, IV),
        (SECRET, SECRET, IV),
        (SECRET, DIGEST, bytes(12)),
        (SECRET[:31], DIGEST, IV),
        (SECRET, DIGEST, b""),
    ):
        with pytest.raises(SealUnopened):
            open_sealed(sealed, secret, digest, iv)
    for length in range(len(sealed)):
        with pytest.raises(SealUnopened):
            open_sealed(sealed[:length], SECRET, DIGEST, IV)
    with pytest.raises(ValueError, match=str(IV_BYTES)):
        seal_body(b"cascade", SECRET, DIGEST, bytes(11))
