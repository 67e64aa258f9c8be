"""Answers: signature, dates, and each misuse of an answer with its error."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.airgap import answer
from protocol.airgap.answer import ANSWER_LIFE, AnswerClaims, match, open_body, open_claims, receipt_of
from protocol.airgap.errors import (
    AirgapError,
    AnswerExpired,
    AnswerForOther,
    AnswerOutdated,
    AnswerUnverified,
    AnswerUsed,
    NothingRequested,
    UnknownFormat,
)
from protocol.airgap.request import Receipt
from protocol.encoding import sha256_hex
from protocol.ids import AirgapRequestId
from protocol.signed import envelope
from protocol.signed.statements import TYP_LEASE_V2
from tests.protocol.airgap.examples import (
    FRESHNESS_KEY,
    MADE,
    REQUEST_ID,
    TRUST_DOMAIN,
    a_body,
    an_answer,
    opened,
    outstanding,
    ring,
    spki,
)

OTHER = AirgapRequestId("agr_01jd7xq2vafw6b8tn4rz9k3med")
RECEIPT = Receipt(REQUEST_ID, "2" * 64, MADE)


def claims(**changes: object) -> AnswerClaims:
    made = answer.claims_for(opened(), answer.body_of(a_body()), trust_domain=TRUST_DOMAIN, at=MADE)
    return msgspec.structs.replace(made, **changes)


def test_an_answer_opens_and_matches_its_request() -> None:
    to = opened()
    file = an_answer(to)
    found = open_claims(file, ring(), TRUST_DOMAIN)
    match(found, outstanding(to), None, (), "", MADE)
    assert open_body(found, file.body.encode()) == a_body()
    assert found.valid_until == MADE + ANSWER_LIFE
    receipt = receipt_of(file, found, MADE)
    assert receipt == Receipt(REQUEST_ID, sha256_hex(file.signature.encode()), MADE)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"trust_domain": "other.example"}, "from another installation"),
        ({"answered_at": MADE + timedelta(days=90)}, "not valid for its date"),
    ],
)
def test_each_wrong_claim_is_refused(changes: dict[str, object], text: str) -> None:
    signed = answer.sign(claims(**changes), envelope.key_id(FRESHNESS_KEY.public_key()), FRESHNESS_KEY)
    with pytest.raises(AnswerUnverified, match=text):
        open_claims(msgspec.structs.replace(an_answer(opened()), signature=signed), ring(), TRUST_DOMAIN)


def test_an_answer_of_another_format_is_named() -> None:
    signed = answer.sign(claims(format=2), envelope.key_id(FRESHNESS_KEY.public_key()), FRESHNESS_KEY)
    with pytest.raises(UnknownFormat, match="the format 2, and this agent knows 1 only"):
        open_claims(msgspec.structs.replace(an_answer(opened()), signature=signed), ring(), TRUST_DOMAIN)


def test_a_key_that_may_not_sign_freshness_signs_no_answer() -> None:
    with pytest.raises(AnswerUnverified, match="may not sign"):
        open_claims(an_answer(opened()), ring(TYP_LEASE_V2), TRUST_DOMAIN)


@given(st.integers(0, 10_000), st.integers(1, 127))
def test_no_changed_byte_verifies(at: int, shift: int) -> None:
    file = an_answer(opened())
    for part in ("signature", "body"):
        raw = bytearray(getattr(file, part).encode())
        raw[at % len(raw)] = (raw[at % len(raw)] + shift) % 128
        altered = msgspec.structs.replace(file, **{part: raw.decode()})
        with pytest.raises(AnswerUnverified):
            open_body(open_claims(altered, ring(), TRUST_DOMAIN), altered.body.encode())


FOR_OTHER: dict[str, object] = {"request": OTHER, "node_key_sha256": "3" * 64}
MISUSE: list[tuple[dict[str, object], bool, Receipt | None, tuple[str, ...], type[AirgapError], str]] = [
    ({}, False, RECEIPT, (), AnswerUsed, "imported before, at 2026-11-30 12:00 UTC"),
    ({}, False, RECEIPT, (REQUEST_ID,), AnswerUsed, "imported before"),
    ({"request": OTHER}, True, None, (), AnswerOutdated, f"the earlier request {OTHER}"),
    (FOR_OTHER, True, None, (OTHER,), AnswerOutdated, "earlier request"),
    (FOR_OTHER, True, RECEIPT, (), AnswerForOther, "no request of this machine"),
    (FOR_OTHER, False, RECEIPT, (), AnswerForOther, "no request of this machine"),
    (FOR_OTHER, False, None, (), NothingRequested, "has made no request"),
    ({"nonce": "another-nonce-of-20"}, True, None, (), AnswerForOther, "another content"),
    ({"request_sha256": "4" * 64}, True, None, (), AnswerForOther, "another content"),
    ({"node_key_sha256": "4" * 64}, True, None, (), AnswerForOther, "another content"),
    ({"kind": "activate"}, True, None, (), AnswerForOther, "another content"),
    ({"valid_until": MADE}, True, None, (), AnswerExpired, "until 2026-11-30 12:00 UTC"),
]


@pytest.mark.parametrize(("changes", "has_request", "receipt", "former", "error", "text"), MISUSE)
def test_each_misuse_is_refused_by_name(
    changes: dict[str, object],
    has_request: bool,
    receipt: Receipt | None,
    former: tuple[str, ...],
    error: type[AirgapError],
    text: str,
) -> None:
    waiting = outstanding(opened()) if has_request else None
    with pytest.raises(error, match=text):
        match(claims(**changes), waiting, receipt, former, sha256_hex(spki()), MADE)


def test_a_body_in_another_form_is_refused() -> None:
    with pytest.raises(AnswerUnverified, match="cannot be read"):
        open_body(claims(body_sha256=sha256_hex(b"[]")), b"[]")
