"""Node keys without a TPM: they make the same signatures and requests as keys in a TPM, and damage is found."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from node.hwbind import keys, software
from node.hwbind.errors import TpmIntegrity
from node.hwbind.tpm import Tpm


def test_a_software_key_signs_and_requests_a_certificate() -> None:
    key = keys.create_software_key()
    assert key.in_software
    assert not keys.NO_KEY.in_software
    public = key.public_key()
    public.verify(keys.sign(None, key, b"message"), b"message", ec.ECDSA(hashes.SHA256()))
    request = x509.load_der_x509_csr(keys.certificate_request(None, key))
    assert request.is_signature_valid
    assert request.public_key() == public
    assert not list(request.subject)
    assert keys.create_software_key() != key


def test_no_text_shows_the_private_part() -> None:
    key = keys.create_software_key()
    secret = key.private
    assert repr(secret)[2:-1] not in repr(key)
    assert "private" not in repr(key)


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def damaged() -> list[tuple[bytes, bytes]]:
    """Pairs of public and private part that are no software key."""
    public, private = software.make()
    other, larger = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    shared = rsa.generate_private_key(65537, 2048)
    return [
        (public, b""),
        (public, private[:-1]),
        (public, pkcs8(other)),
        (public, pkcs8(shared)),
        (b"", private),
        (spki(larger), pkcs8(larger)),
        (spki(shared), pkcs8(shared)),
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_damaged_software_key(number: int) -> None:
    public, private = damaged()[number]
    key = keys.WrappedKey(public, private, keys.SOFTWARE_PARENT)
    with pytest.raises(TpmIntegrity, match="a stored key is damaged"):
        key.public_key()
        keys.sign(None, key, b"message")


async def test_the_key_decides_who_does_its_work() -> None:
    """A node with a software key never opens the TPM. A key of a TPM is never used without it."""
    tpm = Tpm("device:/nonexistent", mode="production")
    holder = keys.holder_of(tpm, keys.create_software_key())
    assert isinstance(holder, software.NoTpm)
    assert holder.mode == "production"
    assert await holder.run(lambda context: (context, 7)) == (None, 7)
    assert holder.call(lambda context: (context, 8)) == (None, 8)
    assert keys.holder_of(tpm, keys.NO_KEY) is tpm
