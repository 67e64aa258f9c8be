"""The forms of a document: round trips, and damaged, cut, mistaken and too large files are refused by name."""

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.airgap.errors import AirgapError, DocumentDamaged, DocumentTooLarge, WrongDocument
from protocol.airgap.forms import printed, qr_text, read_answer, read_request, to_file
from protocol.airgap.text import to_text
from protocol.limits import AIRGAP_ANSWER_BYTES_MAX, AIRGAP_CARRIED_BYTES_MAX, AIRGAP_REQUEST_BYTES_MAX
from tests.protocol.airgap.examples import a_request, an_activation, an_answer, opened, signed_request

REQUEST = signed_request(a_request())
ANSWER = an_answer(opened())


def test_each_form_survives_a_round_trip() -> None:
    for request in (REQUEST, signed_request(an_activation())):
        for form in (to_file(request), printed(request).encode(), qr_text(request).encode()):
            assert read_request(form) == request
    for form in (to_file(ANSWER), printed(ANSWER).encode(), qr_text(ANSWER).encode()):
        assert read_answer(form) == ANSWER


def test_a_formatted_file_has_the_same_content() -> None:
    assert read_request(b"\n " + msgspec.json.format(to_file(REQUEST), indent=2)) == REQUEST


def test_every_truncation_is_refused_by_name() -> None:
    for form in (to_file(REQUEST).rstrip(), printed(REQUEST).rstrip().encode(), qr_text(REQUEST).encode()):
        for length in range(len(form)):
            with pytest.raises((DocumentDamaged, WrongDocument)):
                read_request(form[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    for prefix in (b"", b"{", b"CASCADE-ANSWER 0001 "):
        with pytest.raises((DocumentDamaged, WrongDocument)):
            read_answer(prefix + data)


def test_the_other_document_is_named() -> None:
    for form in (to_file(REQUEST), printed(REQUEST).encode(), qr_text(REQUEST).encode()):
        with pytest.raises(WrongDocument, match=r"request|REQUEST"):
            read_answer(form)
    with pytest.raises(WrongDocument, match="the file is the answer, and the request is needed"):
        read_request(to_file(ANSWER))
    with pytest.raises(WrongDocument, match="no request of an exchange"):
        read_request(b'{"code": "cac_1"}')


def test_sizes_are_bounded_before_and_after_expansion() -> None:
    large = msgspec.structs.replace(REQUEST, body="x" * AIRGAP_REQUEST_BYTES_MAX)
    with pytest.raises(DocumentTooLarge, match=str(AIRGAP_REQUEST_BYTES_MAX)):
        to_file(large)
    with pytest.raises(DocumentTooLarge, match="more than"):
        read_request(msgspec.json.encode(large))
    with pytest.raises(DocumentTooLarge, match="more than"):
        read_request(b" " * (AIRGAP_CARRIED_BYTES_MAX + 1))
    bomb = zlib.compress(bytes(20 * AIRGAP_ANSWER_BYTES_MAX))
    with pytest.raises(DocumentTooLarge, match="the content has more than"):
        read_answer(to_text("ANSWER", bomb).encode())
    with pytest.raises(DocumentTooLarge, match="QR code"):
        qr_text(msgspec.structs.replace(ANSWER, body="".join(map(chr, range(33, 3000)))))


@pytest.mark.parametrize(
    "content", [b"not zlib", zlib.compress(b"{}") + b"more", zlib.compress(b"{}" * 50)[:-3], zlib.compress(b"[]")]
)
def test_wrong_content_of_a_text_is_refused(content: bytes) -> None:
    with pytest.raises(AirgapError):
        read_answer(to_text("ANSWER", content).encode())
