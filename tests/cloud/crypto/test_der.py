"""Our DER writer against other DER writers."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from cloud.crypto.der import NULL, bit_string, integer, octet_string, oid, sequence, tlv


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 2**63, 2**159 - 1, 2**256 - 1])
def test_integers(value: int) -> None:
    assert decode_dss_signature(sequence(integer(value), integer(1))) == (value, 1)
    assert sequence(integer(value), integer(value)) == encode_dss_signature(value, value)


def test_no_integer_below_zero() -> None:
    with pytest.raises(ValueError, match="below zero"):
        integer(-1)


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (65536, "0483010000")],
)
def test_lengths_take_the_fewest_bytes(size: int, head: str) -> None:
    assert octet_string(b"x" * size) == bytes.fromhex(head) + b"x" * size


@pytest.mark.parametrize("dotted", ["1.2.840.10045.4.3.2", "2.5.29.19", "0.0", "2.999.1", "2.25.238106524351137287"])
def test_object_identifiers(dotted: str) -> None:
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(dotted), "x")])
    assert oid(dotted) in name.public_bytes()


@pytest.mark.parametrize("dotted", ["", "1", "x.y", "3.1", "1.40", "1..2", "-1.2"])
def test_what_is_no_object_identifier(dotted: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        oid(dotted)


def test_the_rest() -> None:
    assert bit_string(b"\x80") == bytes.fromhex("03020080")
    assert tlv(0xA0, NULL) == bytes.fromhex("a0020500")
