"""Every way a request can be wrong, and the one way it is right."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.breakwater.csr import NODE_CURVES, SERVICE_CURVES, open_csr
from cloud.breakwater.errors import CsrRefused
from cloud.service_identity import make_csr
from protocol.limits import CSR_BYTES_MAX

KEY = ec.generate_private_key(ec.SECP256R1())
GOOD = make_csr(KEY)
EMPTY = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


def der(
    builder: x509.CertificateSigningRequestBuilder,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = KEY,
    algorithm: hashes.SHA256 | hashes.SHA224 | None = None,
) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return builder.sign(key, None).public_bytes(serialization.Encoding.DER)
    return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def wishing(extension: x509.ExtensionType, critical: bool = False) -> bytes:
    return der(EMPTY.add_extension(extension, critical))


def off_curve() -> bytes:
    point = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return GOOD.replace(point, point[:-1] + bytes([point[-1] ^ 1]))


def compressed() -> bytes:
    points = (serialization.PublicFormat.UncompressedPoint, serialization.PublicFormat.CompressedPoint)
    full, short = (KEY.public_key().public_bytes(serialization.Encoding.X962, form) for form in points)
    spki = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    algorithm = spki[2:23]
    bits = b"\x03\x22\x00" + short
    assert spki.endswith(full)
    body = b"\x02\x01\x00\x30\x00" + b"\x30" + bytes([len(algorithm + bits)]) + algorithm + bits + b"\xa0\x00"
    info = b"\x30" + bytes([len(body)]) + body
    signature = b"\x00" + KEY.sign(info, ec.ECDSA(hashes.SHA256()))
    rest = bytes.fromhex("300a06082a8648ce3d040302") + b"\x03" + bytes([len(signature)]) + signature
    whole = info + rest
    return b"\x30\x81" + bytes([len(whole)]) + whole


def test_the_key_of_a_good_request() -> None:
    assert open_csr(GOOD, NODE_CURVES).public_key == KEY.public_key()


def test_the_subject_is_ignored_not_copied() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    asked = der(x509.CertificateSigningRequestBuilder().subject_name(name))
    assert open_csr(asked, NODE_CURVES).spki_sha256 == open_csr(GOOD, NODE_CURVES).spki_sha256


def test_a_service_may_have_p384() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    assert open_csr(make_csr(key), SERVICE_CURVES).public_key == key.public_key()
    with pytest.raises(CsrRefused, match="secp384r1; allowed is secp256r1"):
        open_csr(make_csr(key), NODE_CURVES)


REFUSED = {
    "empty": (b"", "has 0 bytes"),
    "oversized": (GOOD + bytes(CSR_BYTES_MAX), f"{CSR_BYTES_MAX} is the most"),
    "pem": (b"-----BEGIN CERTIFICATE REQUEST-----", "not a PKCS#10 structure"),
    "trailing byte": (GOOD + b"\x00", "not a PKCS#10 structure"),
    "cut short": (GOOD[:-1], "not a PKCS#10 structure"),
    "signature of another key": (GOOD[:-8] + bytes(8), "does not prove possession"),
    "point off the curve": (off_curve(), "not on the curve"),
    "compressed point": (compressed(), "one spelling"),
    "RSA": (der(EMPTY, rsa.generate_private_key(65537, 2048)), "not an EC key"),
    "Ed25519": (der(EMPTY, ed25519.Ed25519PrivateKey.generate()), "not an EC key"),
    "P-224": (der(EMPTY, ec.generate_private_key(ec.SECP224R1())), "secp224r1"),
    "secp256k1": (der(EMPTY, ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
    "SHA-224": (der(EMPTY, KEY, hashes.SHA224()), "SHA-256, SHA-384 or SHA-512"),
    "wishes for CA": (wishing(x509.BasicConstraints(True, None), True), "extension 2.5.29.19"),
    "wishes for a name": (wishing(x509.SubjectAlternativeName([x509.DNSName("fabric")])), "extension 2.5.29.17"),
    "wishes for server use": (
        wishing(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
        "extension 2.5.29.37",
    ),
    "wishes for the unknown": (
        wishing(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
        "extension 1.2.3.4",
    ),
    "challenge password": (
        der(EMPTY.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hello")),
        "attribute 1.2.840.113549.1.9.7",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    request, reason = REFUSED[name]
    with pytest.raises(CsrRefused) as caught:
        open_csr(request, NODE_CURVES)
    assert reason in str(caught.value)


def test_every_single_changed_byte_is_refused() -> None:
    for position in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[position] ^= 0x01
        with pytest.raises(CsrRefused):
            open_csr(bytes(changed), NODE_CURVES)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    with pytest.raises(CsrRefused):
        open_csr(noise, NODE_CURVES)
