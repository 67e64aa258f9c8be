"""`cloud.breakwater.pkix.csr`: valid requests are accepted; each kind of invalid request is refused by name."""

import base64
import inspect
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.breakwater.errors import CsrRefused
from cloud.breakwater.pkix.csr import NODE_CURVES, SERVICE_CURVES, open_csr
from cloud.crypto.der import bit_string, octet_string, oid, sequence, tlv
from cloud.mtls.identity import make_csr
from protocol.limits import CSR_BYTES_MAX
from tests.cloud.breakwater.pkix import csr_vectors

KEY = ec.generate_private_key(ec.SECP256R1())
GOOD = make_csr(KEY)
SHA_256 = hashes.SHA256()
FABRIC, OTHER = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("fabric", "root"))
NAMES = [x509.UniformResourceIdentifier("spiffe://cascade.test/service/fabric"), x509.DNSName("localhost")]
ALLOWED = x509.SubjectAlternativeName(NAMES)
EMPTY = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


def der(
    builder: x509.CertificateSigningRequestBuilder,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = KEY,
    algorithm: hashes.SHA256 | hashes.SHA224 | None = None,
) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return builder.sign(key, None).public_bytes(serialization.Encoding.DER)
    return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def asking_for(extension: x509.ExtensionType, critical: bool = False) -> bytes:
    return der(EMPTY.add_extension(extension, critical))


def off_curve() -> bytes:
    point = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return GOOD.replace(point, point[:-1] + bytes([point[-1] ^ 1]))


SPKI = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
SHA256 = sequence(oid("1.2.840.10045.4.3.2"))
NO_NAME = sequence()
NO_ATTRIBUTES = tlv(0xA0, b"")


def forged(
    info: bytes, algorithm: bytes = SHA256, key: ec.EllipticCurvePrivateKey = KEY, hash_: hashes.HashAlgorithm = SHA_256
) -> bytes:
    """A request that contains exactly these bytes, with a valid signature over them."""
    return sequence(info, algorithm, bit_string(key.sign(info, ec.ECDSA(hash_))))


def info_of(
    version: bytes = b"\x02\x01\x00", subject: bytes = NO_NAME, spki: bytes = SPKI, attributes: bytes = NO_ATTRIBUTES
) -> bytes:
    return sequence(version, subject, spki, attributes)


def compressed() -> bytes:
    point = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    algorithm = sequence(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7"))
    return forged(info_of(spki=sequence(algorithm, bit_string(point))))


def explicit_curve() -> bytes:
    """P-256 by its parameters instead of its name. RFC 5480 section 2.1.1 forbids it; CVE-2020-0601 relied on it."""
    made = subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt",
         "ec_param_enc:explicit", "-nodes", "-keyout", "/dev/null", "-subj", "/", "-outform", "DER"],
        capture_output=True, check=True,
    )  # fmt: skip
    return made.stdout


def common_name(tag: int, text: bytes = b"fabric") -> bytes:
    return sequence(tlv(0x31, sequence(oid("2.5.4.3"), tlv(tag, text))))


def attribute(name: str, *values: bytes) -> bytes:
    return sequence(oid(name), tlv(0x31, b"".join(values)))


def extension_request(*extensions: bytes) -> bytes:
    return attribute("1.2.840.113549.1.9.14", sequence(*extensions))


def names_extension(value: bytes, critical: bytes = b"") -> bytes:
    return sequence(oid("2.5.29.17"), critical, octet_string(value))


def test_the_key_of_a_good_request() -> None:
    assert open_csr(GOOD, NODE_CURVES).public_key == KEY.public_key()


def test_a_subject_is_empty_or_the_profiles_own() -> None:
    asked = der(x509.CertificateSigningRequestBuilder().subject_name(FABRIC))
    assert open_csr(asked, NODE_CURVES, subject=FABRIC) == open_csr(GOOD, NODE_CURVES, subject=FABRIC)
    printable = forged(info_of(subject=common_name(0x13)))  # as Go writes it
    assert open_csr(printable, NODE_CURVES, subject=FABRIC).public_key == KEY.public_key()
    for subject in (None, x509.Name([]), OTHER):
        with pytest.raises(CsrRefused, match="subject differs"):
            open_csr(asked, NODE_CURVES, subject=subject)


@pytest.mark.parametrize("critical", [False, True])
def test_the_profiles_own_names_are_accepted_in_any_order(critical: bool) -> None:
    for order in (NAMES, NAMES[::-1]):
        asked = asking_for(x509.SubjectAlternativeName(order), critical)
        assert open_csr(asked, NODE_CURVES, names=ALLOWED).public_key == KEY.public_key()


FEWER_OR_MORE = {
    "one missing": NAMES[:1],
    "one more": [*NAMES, x509.DNSName("root")],
    "one twice": [*NAMES, NAMES[0]],
    "another": [NAMES[0], x509.DNSName("breakwater")],
    "another kind": [NAMES[0], x509.UniformResourceIdentifier("localhost")],
    "none": [],
}


@pytest.mark.parametrize("names", FEWER_OR_MORE.values(), ids=FEWER_OR_MORE)
def test_other_names_are_refused(names: list[x509.GeneralName]) -> None:
    with pytest.raises(CsrRefused, match=r"2\.5\.29\.17"):
        open_csr(asking_for(x509.SubjectAlternativeName(names)), NODE_CURVES, names=ALLOWED)


def test_requests_made_with_openssl(tmp_path: Path) -> None:
    """Requests made with OpenSSL as our documentation describes: without names, and with the profile's names."""
    made = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-keyout", str(tmp_path / "key.pem"), "-outform", "DER", "-subj", "/CN=fabric"]
    asked = "subjectAltName=URI:spiffe://cascade.test/service/fabric,DNS:localhost"
    for more in ([], ["-addext", asked]):
        request = subprocess.run([*made, *more], capture_output=True, check=True).stdout
        open_csr(request, SERVICE_CURVES, subject=FABRIC, names=ALLOWED)
    request = subprocess.run([*made, "-addext", asked + ",DNS:else"], capture_output=True, check=True).stdout
    with pytest.raises(CsrRefused, match="subjectAltName"):
        open_csr(request, SERVICE_CURVES, subject=FABRIC, names=ALLOWED)


SERVICE = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
ADMITTED = (
    "KEYTOOL",
    "KEYTOOL_P384",
    "KEYTOOL_RESTATING",
    "CERTTOOL",
    "CERTTOOL_QUESTIONS",
    "CERTTOOL_TLS",
    "CERTTOOL_NAMES",
    "NSS",
    "GO",
)


@pytest.mark.parametrize("name", ADMITTED)
def test_default_requests_of_other_programs_are_accepted(name: str) -> None:
    """Their extensions only repeat the profile. They do not change the key that is returned."""
    request = getattr(csr_vectors, name)
    key = open_csr(request, SERVICE_CURVES, subject=FABRIC, names=ALLOWED, usages=SERVICE)
    assert key.public_key == x509.load_der_x509_csr(request).public_key()


TOO_MUCH = {
    "KEYTOOL_CA": "extension 2.5.29.19 (basicConstraints) with CA:TRUE",
    "KEYTOOL_RSA": "the key is not an EC key",
    "CERTTOOL_CA": "extension 2.5.29.19 (basicConstraints) with CA:TRUE",
    "CERTTOOL_MAIL": "extension 2.5.29.37 (extKeyUsage) with 1.3.6.1.5.5.7.3.4",
    "CERTTOOL_RSA": "the key is not an EC key",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_requests_of_other_programs_for_more_than_the_profile_are_refused(name: str) -> None:
    with pytest.raises(CsrRefused) as caught:
        open_csr(getattr(csr_vectors, name), SERVICE_CURVES, subject=FABRIC, names=ALLOWED, usages=SERVICE)
    assert TOO_MUCH[name] in str(caught.value)


def usage(**bits: bool) -> x509.KeyUsage:
    names = list(inspect.signature(x509.KeyUsage).parameters)
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names})


SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
RESTATED: dict[str, tuple[x509.ExtensionType, str]] = {
    "another key id": (x509.SubjectKeyIdentifier(b"any"), ""),
    "no CA": (x509.BasicConstraints(ca=False, path_length=None), ""),
    "digitalSignature": (usage(digital_signature=True), ""),
    "fewer purposes": (SERVER, ""),
    "a CA": (x509.BasicConstraints(ca=True, path_length=0), "2.5.29.19 (basicConstraints) with CA:TRUE"),
    "one usage more": (
        usage(digital_signature=True, key_encipherment=True),
        "2.5.29.15 (keyUsage) with key_encipherment",
    ),
    "another usage": (usage(key_cert_sign=True, crl_sign=True), "with key_cert_sign, crl_sign"),
    "key agreement": (usage(key_agreement=True, encipher_only=True), "with key_agreement"),
    "one purpose more": (
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING]),
        "2.5.29.37 (extKeyUsage) with 1.3.6.1.5.5.7.3.9",
    ),
    "any purpose": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "with 2.5.29.37.0"),
    "must staple": (x509.TLSFeature([x509.TLSFeatureType.status_request]), "extension 1.3.6.1.5.5.7.1.24"),
    "name constraints": (x509.NameConstraints([x509.DNSName("x")], None), "extension 2.5.29.30"),
}


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize("name", RESTATED)
def test_an_extension_may_only_repeat_the_profile(name: str, critical: bool) -> None:
    value, refused = RESTATED[name]
    request = der(EMPTY.add_extension(value, critical).add_extension(ALLOWED, not critical))
    if refused:
        with pytest.raises(CsrRefused) as caught:
            open_csr(request, NODE_CURVES, names=ALLOWED, usages=SERVICE)
        assert refused in str(caught.value)
    else:
        assert open_csr(request, NODE_CURVES, names=ALLOWED, usages=SERVICE).public_key == KEY.public_key()


def test_the_request_of_a_ca_repeats_no_extension_of_an_end_entity() -> None:
    open_csr(asking_for(x509.SubjectKeyIdentifier(b"any")), NODE_CURVES)
    for value in (x509.BasicConstraints(ca=False, path_length=None), usage(digital_signature=True), SERVER):
        with pytest.raises(CsrRefused, match="send no extensions"):
            open_csr(asking_for(value), NODE_CURVES)


def test_a_service_may_have_p384() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    assert open_csr(make_csr(key), SERVICE_CURVES).public_key == key.public_key()
    with pytest.raises(CsrRefused, match="secp384r1; allowed: secp256r1"):
        open_csr(make_csr(key), NODE_CURVES)


def long_integers() -> bytes:
    r, s = decode_dss_signature(KEY.sign(info_of(), ec.ECDSA(SHA_256)))
    numbers = (tlv(0x02, b"\x00\x00" + number.to_bytes(32, "big")) for number in (r, s))
    return sequence(info_of(), SHA256, bit_string(sequence(*numbers)))


def unused_bits() -> bytes:
    """A signature whose BIT STRING declares its last bit, a zero, as unused."""
    while True:
        signature = KEY.sign(info_of(), ec.ECDSA(SHA_256))
        if not signature[-1] & 1:
            return sequence(info_of(), SHA256, tlv(0x03, b"\x01" + signature))


def with_extensions(*extensions: bytes) -> bytes:
    return forged(info_of(attributes=tlv(0xA0, extension_request(*extensions))))


OWN = ALLOWED.public_bytes()
OTHER_ENCODINGS = {
    "critical FALSE written out": with_extensions(names_extension(OWN, b"\x01\x01\x00")),
    "critical as another TRUE": with_extensions(names_extension(OWN, b"\x01\x01\x01")),
    "the names twice": with_extensions(names_extension(OWN), names_extension(OWN)),
    "a byte after the names": with_extensions(names_extension(OWN + b"\x00")),
    "the attribute twice": forged(info_of(attributes=tlv(0xA0, 2 * extension_request(names_extension(OWN))))),
    "two values in the attribute": forged(
        info_of(attributes=tlv(0xA0, attribute("1.2.840.113549.1.9.14", *(2 * [sequence(names_extension(OWN))]))))
    ),
    "a constructed octet string": with_extensions(sequence(oid("2.5.29.17"), tlv(0x24, octet_string(OWN)))),
}


@pytest.mark.parametrize("request_der", OTHER_ENCODINGS.values(), ids=OTHER_ENCODINGS)
def test_allowed_names_in_another_encoding_are_refused(request_der: bytes) -> None:
    open_csr(with_extensions(names_extension(OWN)), NODE_CURVES, names=ALLOWED)
    with pytest.raises(CsrRefused):
        open_csr(request_der, NODE_CURVES, names=ALLOWED)


REFUSED = {
    "empty": (b"", "has 0 bytes"),
    "oversized": (GOOD + bytes(CSR_BYTES_MAX), f"at most {CSR_BYTES_MAX}"),
    "pem": (b"-----BEGIN CERTIFICATE REQUEST-----", "not a PKCS#10 structure"),
    "trailing byte": (GOOD + b"\x00", "not a PKCS#10 structure"),
    "cut short": (GOOD[:-1], "not a PKCS#10 structure"),
    "signature of another key": (GOOD[:-8] + bytes(8), "does not prove possession"),
    "point off the curve": (off_curve(), "not on the curve"),
    "compressed point": (compressed(), "named curve"),
    "RSA": (der(EMPTY, rsa.generate_private_key(65537, 2048)), "not an EC key"),
    "Ed25519": (der(EMPTY, ed25519.Ed25519PrivateKey.generate()), "not an EC key"),
    "P-224": (der(EMPTY, ec.generate_private_key(ec.SECP224R1())), "secp224r1"),
    "secp256k1": (der(EMPTY, ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
    "SHA-224": (der(EMPTY, KEY, hashes.SHA224()), "SHA-256, SHA-384 or SHA-512"),
    "a megabyte": (GOOD * 4000, f"at most {CSR_BYTES_MAX}"),
    "base64": (base64.b64encode(GOOD), "not a PKCS#10 structure"),
    "explicit curve": (explicit_curve(), "named curve"),
    "SHA-1": (
        forged(info_of(), sequence(oid("1.2.840.10045.4.1")), hash_=hashes.SHA1()),  # noqa: S303  SHA-1 is the case
        "SHA-256, SHA-384 or SHA-512",
    ),
    "MD5 with RSA": (
        forged(info_of(), sequence(oid("1.2.840.113549.1.1.4"), b"\x05\x00")),
        "SHA-256, SHA-384 or SHA-512",
    ),
    "an algorithm with parameters": (forged(info_of(), sequence(oid("1.2.840.10045.4.3.2"), b"\x05\x00")), "DER"),
    "an unknown algorithm": (forged(info_of(), sequence(oid("1.2.3.4"))), "the signature algorithm of the request"),
    "version 2": (forged(info_of(version=b"\x02\x01\x01")), "not a PKCS#10 structure"),
    "a version in two bytes": (forged(info_of(version=b"\x02\x02\x00\x00")), "not a PKCS#10 structure"),
    "indefinite length outside": (b"\x30\x80" + GOOD[3:] + b"\x00\x00", "not a PKCS#10 structure"),
    "indefinite length inside": (forged(info_of(subject=b"\x30\x80\x00\x00")), "not a PKCS#10 structure"),
    "a length in too many bytes": (b"\x30\x82\x00" + GOOD[2:], "not a PKCS#10 structure"),
    "a short length in the long form": (forged(info_of(subject=b"\x30\x81\x00")), "not a PKCS#10 structure"),
    "a byte after the last field": (forged(sequence(info_of()[2:], b"\x00")), "not a PKCS#10 structure"),
    "a constructed string": (forged(info_of(subject=common_name(0x2C, tlv(0x0C, b"fabric")))), "PKCS#10 structure"),
    "a subject": (forged(info_of(subject=common_name(0x0C))), "subject differs"),
    "no attributes field": (forged(info_of(attributes=b"")), "not a PKCS#10 structure"),
    "a signature with long integers": (long_integers(), "does not prove possession"),
    "a signature of unused bits": (unused_bits(), "DER"),
    "asks for CA": (asking_for(x509.BasicConstraints(True, None), True), "extension 2.5.29.19"),
    "asks for a name": (asking_for(x509.SubjectAlternativeName([x509.DNSName("fabric")])), "extension 2.5.29.17"),
    "asks for server use": (
        asking_for(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
        "extension 2.5.29.37",
    ),
    "asks for an unknown extension": (
        asking_for(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
        "extension 1.2.3.4",
    ),
    "an empty extensionRequest": (forged(info_of(attributes=tlv(0xA0, extension_request()))), "extension none"),
    "an attribute without a value": (forged(info_of(attributes=tlv(0xA0, attribute("1.2.3.4")))), "PKCS#10 structure"),
    "an extensionRequest of Microsoft's": (
        forged(info_of(attributes=tlv(0xA0, attribute("1.3.6.1.4.1.311.2.1.14", sequence())))),
        "attribute 1.3.6.1.4.1.311.2.1.14",
    ),
    "names that are no names": (
        forged(info_of(attributes=tlv(0xA0, extension_request(names_extension(b"\x05\x00"))))),
        "extensions that cannot be parsed",
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


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    with pytest.raises(CsrRefused):
        open_csr(noise, NODE_CURVES)
