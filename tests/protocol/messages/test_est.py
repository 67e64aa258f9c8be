"""The encodings of EST: other tools can read the sent ones, and every other form is refused when received."""

import base64
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages.est import (
    BASE64_BYTES_MAX,
    CERTIFICATES_MAX,
    CSRATTRS_DER,
    REQUEST_ID,
    EstError,
    decode_base64,
    decode_certs_only,
    encode_base64,
    encode_certs_only,
    leaf_first,
    media_type,
)
from tests.cloud.pki import Pki

PKI = Pki()
CERTIFICATES = tuple(
    authority.certificate.public_bytes(serialization.Encoding.DER) for authority in (PKI.root, PKI.nodes, PKI.services)
)


@given(st.binary(min_size=1, max_size=500))
def test_base64_round_trips_however_its_lines_end(der: bytes) -> None:
    body = encode_base64(der)
    assert max(map(len, body.split(b"\n"))) <= 64
    for spelled in (body, body.replace(b"\n", b""), body.replace(b"\n", b"\r\n"), b" \t" + body + b"\n\n"):
        assert decode_base64(spelled) == der


BAD_BASE64: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "letters outside": b"AAAA*AAA",
    "the URL alphabet": b"-_-_",
    "no padding": b"QQ",
    "half the padding": b"QQ=",
    "something after the padding": b"QQ==QQ==",
    "PEM": b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    "DER as it is": bytes(CERTIFICATES[0]),
    "a NUL": b"AA\x00AA",
    "not ASCII": "QÜ==".encode(),
    "too much": b"A" * (BASE64_BYTES_MAX + 4),
}


@pytest.mark.parametrize("name", BAD_BASE64)
def test_a_body_that_is_not_base64_is_refused(name: str) -> None:
    with pytest.raises(EstError):
        decode_base64(BAD_BASE64[name])


@given(st.binary(max_size=300))
def test_noise_is_a_value_or_a_refusal(body: bytes) -> None:
    for decode in (decode_base64, decode_certs_only):
        try:
            decode(body)
        except EstError:
            continue


def test_certificates_travel_in_no_order() -> None:
    assert set(decode_certs_only(encode_certs_only(CERTIFICATES))) == set(CERTIFICATES)


def test_openssl_reads_the_certificates() -> None:
    der = decode_base64(encode_certs_only(CERTIFICATES))
    command = ["openssl", "pkcs7", "-inform", "DER", "-print_certs", "-noout"]
    shown = subprocess.run(command, input=der, capture_output=True, check=True).stdout.decode()
    assert shown.count("subject=") == 3


@pytest.mark.parametrize(
    "body", [b"AAAA", encode_base64(CERTIFICATES[0]), encode_base64(bytes.fromhex("300b06092a864886f70d010702"))]
)
def test_a_body_that_is_not_certs_only_is_refused(body: bytes) -> None:
    with pytest.raises(EstError):
        decode_certs_only(body)


def test_too_many_certificates_are_refused() -> None:
    leaf = PKI.service("fabric").certificate.public_bytes(serialization.Encoding.DER)
    assert len(decode_certs_only(encode_certs_only((leaf,) * CERTIFICATES_MAX))) == CERTIFICATES_MAX
    with pytest.raises(EstError, match="49 certificates"):
        decode_certs_only(encode_certs_only((leaf,) * (CERTIFICATES_MAX + 1)))


def test_the_leaf_is_found_by_its_key() -> None:
    wanted = x509.load_der_x509_certificate(CERTIFICATES[1]).public_key()
    spki = wanted.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert leaf_first(CERTIFICATES, spki)[0] == CERTIFICATES[1]
    assert set(leaf_first(CERTIFICATES, spki)) == set(CERTIFICATES)
    for others in (CERTIFICATES[:1], ()):
        with pytest.raises(EstError, match="0 certificates"):
            leaf_first(others, spki)


def test_openssl_reads_the_attributes() -> None:
    command = ["openssl", "asn1parse", "-inform", "DER"]
    shown = subprocess.run(command, input=CSRATTRS_DER, capture_output=True, check=True).stdout.decode()
    found = [line.rpartition(":")[2].strip() for line in shown.splitlines() if "OBJECT" in line]
    assert found == ["id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"]
    assert base64.b64encode(CSRATTRS_DER) == encode_base64(CSRATTRS_DER).strip()


@pytest.mark.parametrize("text", ["application/pkcs10", "Application/PKCS10 ; charset=utf-8", " application/pkcs10"])
def test_media_types_are_compared_without_parameters(text: str) -> None:
    assert media_type(text) == "application/pkcs10"


@pytest.mark.parametrize("text", ["", " ", "a b", "a\n", "a/b", "ä", "a" * 129])
def test_names_of_requests_are_bounded(text: str) -> None:
    assert REQUEST_ID.fullmatch(text) is None
