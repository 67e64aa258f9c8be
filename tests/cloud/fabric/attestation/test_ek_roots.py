"""`cloud.fabric.attestation.ek_roots`: CA certificates of an operator's file are roots, intermediates or refused."""

import re

import pytest
from cryptography import x509

from cloud.fabric.attestation.ek_roots import TrustedRoot, TrustError, is_root, parse_trust_pem, trusted_roots
from protocol.asn1 import SEQUENCE
from protocol.endorsement import DEFAULT_EK_TYPE
from tests.simulators import forged_evidence as forged
from tests.simulators.forged_evidence import maker
from tests.simulators.odd_certificates import Draft, renamed, tlv


def test_a_file_of_roots_and_intermediates() -> None:
    one, two = maker(), maker("Other")
    pem = b"Maker's roots\n" + one.root.pem + one.intermediate.pem + b"\n" + two.root.pem + one.root.pem
    found = parse_trust_pem(pem)
    assert found.roots == (one.root.der, two.root.der)
    assert found.intermediates == (one.intermediate.der,)
    assert trusted_roots([(der, "rsa2048") for der in (*found.intermediates, *found.roots)]) == (
        TrustedRoot(one.root.der, (one.intermediate.der,)),
        TrustedRoot(two.root.der, (one.intermediate.der,)),
    )


def test_the_text_of_a_file_does_not_matter() -> None:
    crlf = maker().root.pem.replace(b"\n", b"\r\n")
    assert parse_trust_pem(crlf).roots == (maker().root.der,)


LEAF = forged.authority("Leaf", maker().root, ca=False, may_sign=False)
NO_USAGE = forged.authority("No usage", may_sign=False)
CRITICAL = forged.authority("Critical", extra=[forged.UNKNOWN_EXTENSION])


NARROW = forged.authority("Narrow", extra=[x509.NameConstraints([x509.DNSName("maker.test")], None)])
OTHER_USE = forged.authority("Web", extra=[x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH])])
BEGIN, END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a certificate"),
        (BEGIN + b"\nAAAA", "does not end"),
        (BEGIN + b"\nAAAA\n-----END PRIVATE KEY-----\n", "does not end"),
        (BEGIN, "does not end"),
        (b"-----BEGIN ", "does not end"),
        (BEGIN + b"\nAAA\n" + END + b"\n", "damaged"),
        (BEGIN + b"\nAAAA\n" + END + b"\n", "cannot be read"),
        (BEGIN + b"\n" + b"A" * 12000 + END, "more than 8192 bytes"),
        (LEAF.pem, "not a CA certificate"),
        (NO_USAGE.pem, "not a CA certificate"),
        (CRITICAL.pem, "unknown critical extension"),
        (NARROW.pem, "unknown critical extension 2.5.29.30"),
        (OTHER_USE.pem, "other certificates"),
    ],
)
def test_a_bad_block_does_not_keep_the_others_out(bad: bytes, says: str) -> None:
    found = parse_trust_pem(maker().root.pem + b"text\n" + bad + b"\n" + maker("Other").root.pem)
    assert found.roots == (maker().root.der, maker("Other").root.der)
    assert [(each.number, each.line) for each in found.refused] == [(2, maker().root.pem.count(b"\n") + 2)]
    assert re.search(says, found.refused[0].reason)


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (b"", "no certificate"),
        (b"\x00\xff", "no certificate"),
        (maker().root.pem * 129, "more than 128|more than 65536"),
        (b"-----BEGIN " * 129, "more than 128"),
        (b" " * (64 * 1024 + 1), "more than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_trusted(pem: bytes, says: str) -> None:
    with pytest.raises(TrustError, match=says):
        parse_trust_pem(pem)


def test_a_root_whose_own_signature_no_longer_counts_is_a_root() -> None:
    sha1 = tlv(SEQUENCE, bytes.fromhex("06092a864886f70d010105"), b"\5\0")
    draft = Draft.of(maker().root.der).with_field(2, lambda _: sha1)
    old = Draft(draft.fields, sha1).sign(maker().root.key)
    assert is_root(old)
    assert not is_root(renamed(maker().root.der, maker("Other").root.key))
    assert not is_root(maker().intermediate.der)


def test_a_stored_certificate_that_cannot_be_used_any_more_is_left_out() -> None:
    stored = [(NARROW.der, DEFAULT_EK_TYPE), (maker().root.der, DEFAULT_EK_TYPE), (b"x", DEFAULT_EK_TYPE)]
    assert trusted_roots(stored) == (TrustedRoot(maker().root.der),)
