"""Ids, secrets, pins, fingerprints, encodings and problem codes."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import ENTROPY_BYTES, SecretFormatError, make_secret, parse_secret, secret_hash
from protocol.encoding import EncodingError, b64url_decode, b64url_encode
from protocol.evidence import qualifying_data
from protocol.hardware import WEIGHTS, component_hmac, fingerprint, is_placeholder
from protocol.ids import (
    IdError,
    NodeSpiffeId,
    ServiceSpiffeId,
    make_id,
    parse_generation,
    parse_id,
    parse_spiffe,
    parse_trust_domain,
)
from protocol.messages.activation import PinError, TrustPin, parse_pin
from protocol.problems import KINDS, Code, document
from tests.protocol.vectors import examples


@given(unix_ms=st.integers(0, 2**47), entropy=st.binary(min_size=10, max_size=10))
def test_ids_round_trip_and_sort_by_time(unix_ms: int, entropy: bytes) -> None:
    text = make_id("node", unix_ms, entropy)
    assert parse_id("node", text) == text
    assert text < make_id("node", unix_ms + 1, entropy)


@pytest.mark.parametrize(
    "text", ["", "node_", "node_01", "ten_01jd7xq2vafw6b8tn4rz9k3mec", "node_01JD7XQ2VBH5S0D2YQ8WV6G7PE", "../x"]
)
def test_ids_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(IdError):
        parse_id("node", text)


def test_spiffe_ids_round_trip() -> None:
    node = NodeSpiffeId("cascade.example", examples.TENANT, examples.NODE)
    service = ServiceSpiffeId("cascade.example", "fabric")
    assert parse_spiffe(str(node)) == node
    assert parse_spiffe(str(service)) == service


@pytest.mark.parametrize(
    "uri",
    [
        "https://cascade.example/service/fabric",
        "spiffe://cascade.example/service/other",
        "spiffe://cascade.example/service/fabric/",
        "spiffe://cascade.example/service/fabric?x",
        "spiffe://cascade.example/service/fabric#x",
        "spiffe://CASCADE.example/service/fabric",
        "spiffe://user@cascade.example/service/fabric",
        "spiffe://cascade.example:1/service/fabric",
        "spiffe:///service/fabric",
        f"spiffe://cascade.example/tenant/{examples.NODE}/node/{examples.NODE}",
        f"spiffe://cascade.example/tenant/{examples.TENANT}/node/{examples.TENANT}",
        f"spiffe://cascade.example/tenant/{examples.TENANT}/node/{examples.NODE}/x",
        f"spiffe://cascade.example/tenant/{examples.TENANT}",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(IdError):
        parse_spiffe(uri)


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "+1", "1.0", " 1", "1 ", "a", "1" * 10, "\u0661"])
def test_generations_have_one_spelling(text: str) -> None:
    with pytest.raises(IdError):
        parse_generation(text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a..b", "a/b", "a" * 255])
def test_trust_domains(text: str) -> None:
    with pytest.raises(IdError):
        parse_trust_domain(text)


@given(st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES))
def test_secrets_round_trip(entropy: bytes) -> None:
    secret = make_secret("cac", entropy)
    assert parse_secret("cac", f"  {secret.upper()}\n") == secret
    assert len(secret_hash(secret)) == 64
    with pytest.raises(SecretFormatError):
        parse_secret("cot", secret)


@given(st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES), st.integers(4, 41), st.integers(1, 31))
def test_a_mistyped_letter_is_noticed(entropy: bytes, position: int, shift: int) -> None:
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    secret = make_secret("cac", entropy)
    other = alphabet[(alphabet.index(secret[position]) + shift) % 32]
    with pytest.raises(SecretFormatError):
        parse_secret("cac", secret[:position] + other + secret[position + 1 :])


def test_secrets_take_all_their_entropy() -> None:
    with pytest.raises(ValueError, match="20 bytes"):
        make_secret("cac", bytes(19))


def test_pins() -> None:
    pin = TrustPin(version=3, sha256="ab" * 32)
    assert parse_pin(str(pin)) == pin
    for text in ("", "1", "1:ab", f"x:{'ab' * 32}", f"1:{'AB' * 32}"):
        with pytest.raises(PinError):
            parse_pin(text)


@given(st.binary(max_size=100))
def test_base64url_round_trips(data: bytes) -> None:
    assert b64url_decode(b64url_encode(data)) == data


@pytest.mark.parametrize("text", ["A", "AB==", "AB", "A+", "A/", "AA\n", " AA", "ä"])
def test_base64url_has_one_spelling(text: str) -> None:
    with pytest.raises(EncodingError):
        b64url_decode(text)


PLACEHOLDERS = [
    "", "  ", "None", "N/A", "Default string", "default  STRING", "To Be Filled By O.E.M.", "System Serial Number",
    "0", "00000000", "0000-0000", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "xxxxxxxx", "XXXX-XXXX", "...", "-", "Not Specified", "0123456789",
    "03000200-0400-0500-0006-000700080009", "1234567890",
]  # fmt: skip


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_placeholders_never_count(value: str) -> None:
    assert is_placeholder(value)
    assert fingerprint(b"s" * 32, {"board_serial": value}) == {}


@pytest.mark.parametrize(
    "value", ["PF2XK9QB", "52:54:00:12:34:56", "4c4c4544-0042-3510-8054-b7c04f4b4d32", "S4EVNX0M", "10"]
)
def test_real_values_count(value: str) -> None:
    assert not is_placeholder(value)


def test_a_fingerprint_is_of_tenant_and_component() -> None:
    assert sum(WEIGHTS.values()) == 100
    first = component_hmac(b"a" * 32, "board_serial", "PF2XK9QB")
    assert first == component_hmac(b"a" * 32, "board_serial", " pf2xk9qb ")
    assert first != component_hmac(b"b" * 32, "board_serial", "PF2XK9QB")
    assert first != component_hmac(b"a" * 32, "chassis_serial", "PF2XK9QB")


def test_qualifying_data_depends_on_each_part() -> None:
    parts = (b"s" * 32, "act_1", b"csr")
    whole = qualifying_data(*parts)
    assert len(whole) == 32
    assert whole != qualifying_data(b"t" * 32, "act_1", b"csr")
    assert whole != qualifying_data(b"s" * 32, "act_2", b"csr")
    assert whole != qualifying_data(b"s" * 32, "act_1", b"csR")
    with pytest.raises(ValueError, match="32 bytes"):
        qualifying_data(b"s" * 31, "act_1", b"csr")


def test_every_problem_code_is_listed_and_says_what_to_do() -> None:
    assert set(KINDS) == set(get_args(Code))
    for kind in KINDS.values():
        assert re.fullmatch(r"[a-z_]+", kind.code)
        assert kind.next.endswith((".", "`"))
        assert kind.title
        assert 400 <= kind.status < 600
        assert kind.conclusive == (kind.status < 500 and kind.status != 429)
        assert document(kind, "d").detail == "d"
