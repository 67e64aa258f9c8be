"""`protocol.endorsement`: names of endorsement keys. The templates are compared with a library's in the attestation."""

import hashlib

import pytest

from protocol.endorsement import TEMPLATES, name_of


def test_a_name_has_the_hash_of_the_key() -> None:
    assert name_of(TEMPLATES["rsa2048"].public(5)).hex().startswith("000b")
    public = TEMPLATES["ecc_p384"].public(1, 2)
    assert name_of(public) == b"\x00\x0c" + hashlib.sha384(public).digest()
    assert name_of(b"")[:2] == b"\x00\x0b"


def test_a_value_must_fit_the_key() -> None:
    with pytest.raises(OverflowError):
        TEMPLATES["ecc_p256"].public(1 << 256, 1)
    with pytest.raises(ValueError, match="zip"):
        TEMPLATES["ecc_p256"].public(1)
