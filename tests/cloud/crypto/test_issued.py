"""A certificate was signed by its issuer and by no other CA, whatever keys and names the others have."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x25519

from cloud.crypto.issued import is_issued_by, issuer_among
from tests.cloud.pki import Authority, Pki, authority


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def test_the_ca_that_signed_it(pki: Pki) -> None:
    leaf = pki.service("fabric").certificate
    assert is_issued_by(leaf, pki.services.certificate)
    assert is_issued_by(pki.services.certificate, pki.root.certificate)
    assert is_issued_by(pki.root.certificate, pki.root.certificate)


def with_a_key_that_signs_nothing(pki: Pki) -> x509.Certificate:
    """A certificate with the name of the services' CA, for a key of a kind that cannot sign."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(pki.services.certificate.subject)
        .issuer_name(pki.root.certificate.subject)
        .public_key(x25519.X25519PrivateKey.generate().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    return builder.sign(pki.root.key, hashes.SHA256())


def test_no_other_ca_is_the_issuer(pki: Pki) -> None:
    leaf = pki.service("fabric").certificate
    assert not is_issued_by(leaf, pki.nodes.certificate), "another name"
    assert not is_issued_by(leaf, authority("services", pki.root).certificate), "another key under the same name"
    assert not is_issued_by(leaf, with_a_key_that_signs_nothing(pki)), "a key that makes no signatures"
    assert not is_issued_by(leaf, leaf)


def test_the_first_of_several(pki: Pki) -> None:
    leaf = pki.service("fabric").certificate
    others: tuple[Authority, ...] = (pki.root, pki.nodes)
    assert issuer_among(leaf, (each.certificate for each in (*others, pki.services))) == pki.services.certificate
    assert issuer_among(leaf, [each.certificate for each in others]) is None
    assert issuer_among(leaf, ()) is None
