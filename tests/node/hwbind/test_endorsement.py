"""The endorsement key: read, made again, and asked by challenges."""

import pytest
from cryptography import x509
from tpm2_pytss.types import TPMT_PUBLIC
from tpm2_pytss.utils import make_credential

from node.hwbind import endorsement, errors, keys
from node.hwbind.endorsement import EkType
from node.hwbind.tpm import Tpm

SECRET = b"s" * 32


def challenge(ek_public: bytes, name: bytes) -> tuple[bytes, bytes]:
    public, _ = TPMT_PUBLIC.unmarshal(ek_public)
    blob, secret = make_credential(public, SECRET, name)
    return bytes(blob.marshal()), bytes(secret.marshal())


@pytest.mark.parametrize("ek_type", ["rsa-2048", "ecc-p256", "ecc-p384"])
def test_the_challenge_is_answered(tpm: Tpm, ek_type: EkType) -> None:
    ak = tpm.call(keys.create_ak)
    ek = tpm.call(lambda esys: endorsement.read_endorsement(esys, ek_type))
    blob, secret = challenge(ek.public, ak.name)
    assert tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob, secret, ek_type)) == SECRET


def test_a_challenge_for_another_key_is_refused(tpm: Tpm) -> None:
    ak, other = tpm.call(keys.create_ak), tpm.call(keys.create_ak)
    ek = tpm.call(endorsement.read_endorsement)
    blob, secret = challenge(ek.public, other.name)
    with pytest.raises(errors.TpmIntegrity):
        tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob, secret))
    with pytest.raises(errors.TpmIntegrity):
        tpm.call(lambda esys: endorsement.activate_credential(esys, ak, blob + b"\0", secret))


def test_the_endorsement_key_is_the_certificates_own(tpm: Tpm) -> None:
    ek = tpm.call(endorsement.read_endorsement)
    assert ek.certificate is not None
    certificate = x509.load_der_x509_certificate(ek.certificate)
    public, _ = TPMT_PUBLIC.unmarshal(ek.public)
    assert int.from_bytes(bytes(public.unique.rsa), "big") == certificate.public_key().public_numbers().n  # type: ignore[union-attr]
