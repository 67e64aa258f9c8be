"""`cloud.fabric.attestation.ek_roots`: CA certificates of an operator's file are roots, intermediates or refused."""

import pytest

from cloud.fabric.attestation.ek_roots import TrustedRoot, TrustError, parse_trust_pem, trusted_roots
from tests.simulators import forged_evidence as forged
from tests.simulators.forged_evidence import maker


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


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (b"", "no certificate"),
        (b"\x00\xff", "no certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no certificate"),
        (maker().root.pem + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "a PEM block"),
        (maker().root.pem[:-20], "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n", "certificate 1 .* damaged"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 .* cannot be read"),
        (maker().root.pem + LEAF.pem, "certificate 2 .* not a CA certificate"),
        (NO_USAGE.pem, "not a CA certificate"),
        (CRITICAL.pem, "unknown critical extension"),
        (maker().root.pem * 65, "more than 64"),
        (b" " * (256 * 1024 + 1), "more than 262144 bytes"),
    ],
)
def test_a_file_that_cannot_be_trusted(pem: bytes, says: str) -> None:
    with pytest.raises(TrustError, match=says):
        parse_trust_pem(pem)
