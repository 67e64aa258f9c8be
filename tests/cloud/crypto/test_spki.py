"""The SubjectPublicKeyInfo of a key is the one in its certificate."""

from cryptography.hazmat.primitives.serialization import load_der_public_key

from cloud.crypto.spki import spki_of
from tests.cloud.pki import Pki


def test_it_is_the_one_in_the_certificate_and_can_be_read() -> None:
    leaf = Pki().service("fabric")
    spki = spki_of(leaf.key.public_key())
    assert spki in leaf.certificate.tbs_certificate_bytes
    assert load_der_public_key(spki) == leaf.key.public_key()
