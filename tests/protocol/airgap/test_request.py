"""Requests: the literal example, each single mutation with its error, and no changed byte verifies."""

from datetime import timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from protocol.airgap.errors import RequestExpired, RequestInvalid, UnknownFormat
from protocol.airgap.request import (
    REQUEST_LIFE,
    ClockEvidence,
    Receipt,
    body_of,
    certified_data,
    check_life,
    open_request,
)
from protocol.encoding import sha256, sha256_hex
from protocol.ids import AirgapRequestId, TenantId
from protocol.messages.recovery import RecoveryClaim
from tests.protocol.airgap.examples import MADE, REQUEST_ID, a_request, an_activation, opened, signed_request, spki


def test_the_literal_example_is_the_format() -> None:
    body = body_of(a_request(public_key=b"key"))
    assert body.decode() == (
        '{"format":1,"kind":"refresh","request":"agr_01jd7xq2vafw6b8tn4rz9k3mec","public_key":"a2V5",'
        '"nonce":"0123456789abcdefghij","agent_version":"0.1.0","made_at":"2026-11-30T12:00:00Z",'
        '"clock":{"low":"2026-11-30T12:00:00Z","high":"2026-11-30T12:00:00Z","wall":"2026-11-30T12:00:00Z",'
        '"tpm":{"clock":1000,"reset_count":1,"restart_count":0,"safe":true}},"csr":"Y3Ny",'
        f'"pin":{{"version":1,"sha256":"{"0" * 64}"}},"trust_version":4,"root_version":1,'
        '"tenant":"ten_01jd7xq2vafw6b8tn4rz9k3mec","node":"node_01jd7xq2vbh5s0d2yq8wv6g7pe","generation":2,'
        f'"presented":"a.b.c","fingerprint":{{"disk_serial":"{"1" * 64}"}}}}'
    )
    assert certified_data(b"body").hex() == "7e56eb3a9985b09090b4172267aeb2c46db5f29832ae7a81210ad045a9f6f21d"
    assert certified_data(b"body") == sha256(b"cascade-airgap-request-1\nbody")


def test_a_request_opens_with_its_content_and_its_digest() -> None:
    made = a_request(receipt=Receipt(REQUEST_ID, "2" * 64, MADE))
    found = open_request(signed_request(made))
    assert found.request == made
    assert found.body == body_of(made)
    assert found.sha256_hex == sha256_hex(found.body)
    assert found.certified == certified_data(found.body)
    assert open_request(signed_request(an_activation())).request.code == "cac_1"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"node": ""}, "kind refresh is not complete: it names no tenant, node and generation"),
        ({"tenant": TenantId("")}, "it names no tenant, node and generation"),
        ({"generation": 0}, "it names no tenant, node and generation"),
        ({"kind": "activate"}, "kind activate is not complete: it has no evidence of a TPM"),
        ({"kind": "recover"}, "kind recover is not complete: it has no evidence of a TPM"),
        ({"public_key": b"x"}, "cannot be read"),
        ({"public_key": spki(ec.derive_private_key(7, ec.SECP384R1()))}, "not a P-256 key"),
        ({"public_key": spki(ec.derive_private_key(7, ec.SECP256R1()))}, "not signed by its node key"),
        ({"request": AirgapRequestId("req_01jd7xq2vafw6b8tn4rz9k3mec")}, "not an id of the form agr_"),
        ({"nonce": "short"}, "cannot be read"),
    ],
)
def test_each_wrong_part_is_refused_by_name(changes: dict[str, object], text: str) -> None:
    with pytest.raises(RequestInvalid, match=text):
        open_request(signed_request(a_request(**changes)))


def test_a_request_of_another_format_is_named() -> None:
    with pytest.raises(UnknownFormat, match="the format 2, and this cloud knows 1 only"):
        open_request(signed_request(a_request(format=2)))


def test_an_activation_needs_a_code() -> None:
    with pytest.raises(RequestInvalid, match="it has no activation code"):
        open_request(signed_request(an_activation(code="")))


def test_a_recovery_says_which_node_the_machine_was() -> None:
    with pytest.raises(RequestInvalid, match="it does not say which node it was"):
        open_request(signed_request(an_activation(kind="recover", code="")))
    claim = RecoveryClaim(situation="reinstalled")
    made = an_activation(kind="recover", code="", recovery=claim)
    assert open_request(signed_request(made)).request.recovery == claim


def test_a_field_of_a_later_version_is_refused_with_the_reason() -> None:
    file = signed_request(a_request())
    later = msgspec.structs.replace(file, body=file.body[:-1] + ',"later":1}')
    with pytest.raises(RequestInvalid, match=r"unknown field `later`\. A newer agent made it: update this cloud first"):
        open_request(later)


def test_another_signature_is_refused() -> None:
    file, other = signed_request(a_request()), signed_request(a_request(trust_version=5))
    with pytest.raises(RequestInvalid, match="the request was changed"):
        open_request(msgspec.structs.replace(file, signature=other.signature))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_verifies(at: int, shift: int) -> None:
    file = signed_request(a_request())
    for part in ("body", "signature"):
        raw = bytearray(getattr(file, part).encode())
        raw[at % len(raw)] = (raw[at % len(raw)] + shift) % 128
        if bytes(raw) != getattr(file, part).encode():
            with pytest.raises((RequestInvalid, UnknownFormat)):
                open_request(msgspec.structs.replace(file, **{part: raw.decode()}))


def test_a_request_expires_after_its_life_unless_its_clock_is_suspect() -> None:
    made = opened().request
    check_life(made, MADE + REQUEST_LIFE)
    check_life(made, MADE - timedelta(days=400))
    with pytest.raises(RequestExpired, match="2026-11-30 12:00 UTC by the clock of its machine"):
        check_life(made, MADE + REQUEST_LIFE + timedelta(seconds=1))
    old = opened(clock=ClockEvidence(low=MADE, high=MADE, wall=MADE - timedelta(days=9000), suspect=True)).request
    check_life(old, MADE + timedelta(days=90))
