"""The form that identifies a key: as in its certificate."""

from cryptography.hazmat.primitives.serialization import load_der_public_key

from cloud.crypto.spki import spki_of
from tests.cloud.pki import Pki


def test_it_stands_in_the_certificate_and_is_read_again() -> None:
    leaf = Pki().service("fabric")
    spki = spki_of(leaf.key.public_key())
    assert spki in leaf.certificate.tbs_certificate_bytes
    assert load_der_public_key(spki) == leaf.key.public_key()
