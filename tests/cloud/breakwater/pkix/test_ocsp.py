"""`cloud.breakwater.pkix.ocsp`: a request is parsed in full, or refused with a status of the standard."""

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from cloud.breakwater.pkix.ocsp import REQUEST_BYTES_MAX, OcspRefused, Trouble, parse_request, refusal
from tests.cloud.breakwater.ocsp_requests import (
    by_hash,
    signed_request,
    two_requests,
    unknown_oid,
    with_extension,
    with_sha512,
)


def test_no_single_byte_makes_another_error() -> None:
    der = with_extension(x509.OCSPNonce(b"nonce"), False)
    for at in range(len(der)):
        for bit in (0x01, 0x20, 0x80):
            mutated = der[:at] + bytes([der[at] ^ bit]) + der[at + 1 :]
            assert trouble_of(mutated) in ("", "malformed", "unauthorized")


def trouble_of(der: bytes) -> str:
    try:
        parse_request(der)
    except OcspRefused as refused:
        return refused.trouble
    return ""


@pytest.mark.parametrize(
    ("der", "trouble"),
    [
        (b"", "malformed"),
        (by_hash(7)[:-1], "malformed"),
        (by_hash(7) + b"\x00", "malformed"),
        (b"\x30" * (REQUEST_BYTES_MAX + 1), "malformed"),
        (two_requests(), "malformed"),
        (with_extension(x509.OCSPNonce(b""), False), "malformed"),
        (with_extension(unknown_oid(), True), "malformed"),
        (with_sha512(), "unauthorized"),
        (with_extension(unknown_oid(), False), ""),
        (signed_request(), ""),
    ],
)
def test_invalid_requests_are_refused(der: bytes, trouble: str) -> None:
    assert trouble_of(der) == trouble


def test_the_fields_of_a_parsed_request() -> None:
    question = parse_request(with_extension(x509.OCSPNonce(b"nonce"), False))
    assert (question.serial, question.nonce) == (7, b"nonce")
    assert (question.issuer.name_hash, question.issuer.key_hash) == (b"n" * 20, b"k" * 20)
    assert parse_request(by_hash(7)).nonce is None
    assert parse_request(by_hash(7)) == parse_request(signed_request())


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        ("malformed", ocsp.OCSPResponseStatus.MALFORMED_REQUEST),
        ("internal", ocsp.OCSPResponseStatus.INTERNAL_ERROR),
        ("try_later", ocsp.OCSPResponseStatus.TRY_LATER),
        ("unauthorized", ocsp.OCSPResponseStatus.UNAUTHORIZED),
    ],
)
def test_answers_without_a_status(trouble: Trouble, status: ocsp.OCSPResponseStatus) -> None:
    assert ocsp.load_der_ocsp_response(refusal(trouble)).response_status == status
