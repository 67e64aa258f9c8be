"""The signed documents: literal vectors, one-mutation tables, and single-byte changes."""

import json
import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.encoding import json_decode, json_encode, sha256_hex
from protocol.limits import ENTITLEMENTS_MAX, ENVELOPE_BYTES_MAX
from protocol.messages.sessions import TYP_SESSION_PROOF, ProofClaims, ProofError, open_proof
from protocol.signed import freshness as fresh
from protocol.signed.envelope import EnvelopeError, KeyRing, covers, open_envelope, seal, verify_signature
from protocol.signed.statements import (
    TYP_LEASE,
    TYP_SUSPENSION,
    Lease,
    StatementError,
    is_for,
    payload_of,
    supersedes,
    typ_of,
    verify_statement,
)
from tests.protocol.vectors import examples
from tests.protocol.vectors.__main__ import FILE, made

VECTORS: dict[str, dict[str, str]] = json.loads(FILE.read_text())
STATEMENTS = ("lease", "suspension", "revocation")


def lease_token(**changes: object) -> str:
    return examples.seal(TYP_LEASE, "lease", payload_of(examples.lease(**changes)))


def test_vectors_are_literal() -> None:
    assert made() == VECTORS


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_vectors_verify(name: str) -> None:
    verified = verify_statement(VECTORS[name]["token"], examples.ring(), examples.TRUST_DOMAIN)
    assert verified.statement == examples.DOCUMENTS[name][2]
    assert typ_of(verified.statement) == VECTORS[name]["typ"]
    assert is_for(verified.statement, examples.TENANT, examples.NODE, 2)


def test_proof_vector_verifies() -> None:
    claims = open_proof(VECTORS["session-proof"]["token"], examples.KEYS["node"].public_key())
    assert claims == examples.proof_claims()


def verify_any(name: str, token: str) -> None:
    """Verify a token as the document that the vector `name` is. Raises what the verification raises."""
    if name == "session-proof":
        open_proof(token, examples.KEYS["node"].public_key())
    elif name == "freshness":
        open_envelope(token, fresh.TYP_FRESHNESS, examples.ring())
    else:
        verify_statement(token, examples.ring(), examples.TRUST_DOMAIN)


@pytest.mark.parametrize("name", VECTORS)
def test_any_single_character_change_never_verifies(name: str) -> None:
    """Every position, with the neighbouring letter (which changes loose trailing bits, if any) and with one of chance."""
    token = VECTORS[name]["token"]
    verify_any(name, token)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    rng = random.Random(1)
    for position, letter in enumerate(token):
        neighbour = alphabet[(alphabet.index(letter) ^ 1) % len(alphabet)]
        for other in {neighbour, rng.choice(alphabet)} - {letter}:
            with pytest.raises((EnvelopeError, StatementError, ProofError)):
                verify_any(name, token[:position] + other + token[position + 1 :])


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("damage", ["", "=", "\n", " ", "A", "."])
def test_longer_and_shorter_tokens_never_verify(name: str, damage: str) -> None:
    token = VECTORS[name]["token"]
    changed = token + damage if damage else token[:-1]
    with pytest.raises((EnvelopeError, StatementError, ProofError)):
        verify_any(name, changed)


RING_MUTATIONS: dict[str, tuple[dict[str, object], int, type[Exception]]] = {
    "withdrawn": ({"withdrawn": True}, 5, EnvelopeError),
    "another typ": ({"typs": (TYP_SUSPENSION,)}, 5, EnvelopeError),
    "another kid": ({"kid": "AAAA"}, 5, EnvelopeError),
    "another key": ({"public_key_der": examples.verification_key("freshness").public_key_der}, 6, EnvelopeError),
    "before its window": ({"not_before": examples.ISSUED + timedelta(seconds=1)}, 9, StatementError),
    "at its end": ({"not_after": examples.ISSUED}, 9, StatementError),
}


@pytest.mark.parametrize("name", RING_MUTATIONS)
def test_one_mutation_of_the_published_key(name: str) -> None:
    changes, step, kind = RING_MUTATIONS[name]
    ring = KeyRing([examples.verification_key("lease", **changes)])
    with pytest.raises(kind) as caught:
        verify_statement(VECTORS["lease"]["token"], ring, examples.TRUST_DOMAIN)
    assert isinstance(caught.value, EnvelopeError | StatementError)
    assert caught.value.step == step


LEASE_MUTATIONS: dict[str, tuple[dict[str, object], int]] = {
    "no generation": ({"generation": 0}, 8),
    "negative epoch": ({"epoch": -1}, 8),
    "no seq": ({"seq": 0}, 8),
    "seq too large": ({"seq": 2**53}, 8),
    "not a tenant id": ({"tenant": "acme"}, 8),
    "a tenant as node": ({"node": str(examples.TENANT)}, 8),
    "not a tier": ({"tier": "best"}, 8),
    "another trust domain": ({"trust_domain": "other.example"}, 9),
    "refresh before issue": ({"refresh_after": examples.ISSUED - timedelta(1)}, 10),
    "grace before expiry": ({"grace_until": examples.ISSUED + timedelta(days=29)}, 10),
    "terminates before grace": ({"terminate_at": examples.ISSUED + timedelta(days=44)}, 10),
    "starts after issue": ({"not_before": examples.ISSUED + timedelta(1)}, 10),
    "an entitlement twice": ({"entitlements": ("a", "a")}, 10),
    "an entitlement without name": ({"entitlements": ("",)}, 10),
    "an entitlement too long": ({"entitlements": ("x" * 65,)}, 10),
    "too many entitlements": ({"entitlements": tuple(f"e{i}" for i in range(ENTITLEMENTS_MAX + 1))}, 10),
}


@pytest.mark.parametrize("name", LEASE_MUTATIONS)
def test_one_mutation_of_a_lease(name: str) -> None:
    changes, step = LEASE_MUTATIONS[name]
    with pytest.raises(StatementError) as caught:
        verify_statement(lease_token(**changes), examples.ring(), examples.TRUST_DOMAIN)
    assert caught.value.step == step


HEADER_MUTATIONS: dict[str, tuple[Callable[[], str], int]] = {
    "too long": (lambda: VECTORS["lease"]["token"] + "A" * ENVELOPE_BYTES_MAX, 1),
    "two parts": (lambda: VECTORS["lease"]["token"].rpartition(".")[0], 1),
    "not base64url": (lambda: "*" + VECTORS["lease"]["token"][1:], 2),
}


@pytest.mark.parametrize("name", HEADER_MUTATIONS)
def test_one_mutation_of_the_form(name: str) -> None:
    make, step = HEADER_MUTATIONS[name]
    with pytest.raises(EnvelopeError) as caught:
        verify_statement(make(), examples.ring(), examples.TRUST_DOMAIN)
    assert caught.value.step == step


@pytest.mark.parametrize(
    ("header", "step"),
    [
        (b'{"alg":"none","kid":"K","typ":"T"}', 3),
        (b'{"alg":"HS256","kid":"K","typ":"T"}', 3),
        (b'{"alg":"ES256","kid":"K","typ":"U"}', 4),
        (b'{"alg":"ES256", "kid":"K","typ":"T"}', 2),
        (b'{"kid":"K","alg":"ES256","typ":"T"}', 2),
        (b'{"alg":"ES256","kid":"K","typ":"T","crit":["x"]}', 2),
        (b'{"alg":"ES256","kid":"K","typ":"T","jwk":{}}', 2),
    ],
)
def test_headers_that_are_refused(header: bytes, step: int) -> None:
    """Algorithm confusion, another type, other spellings, and headers that want to be understood or bring a key."""
    from protocol.encoding import b64url_encode

    token = ".".join(b64url_encode(part) for part in (header, b"{}", bytes(64)))
    with pytest.raises(EnvelopeError) as caught:
        verify_signature(token, "T", examples.KEYS["lease"].public_key())
    assert caught.value.step == step


def test_a_licence_key_cannot_revoke_and_a_revocation_key_cannot_license() -> None:
    for name, key in (
        ("lease", "revocation"),
        ("revocation", "lease"),
        ("suspension", "lease"),
        ("lease", "freshness"),
    ):
        typ, _, value = examples.DOCUMENTS[name]
        with pytest.raises(EnvelopeError) as caught:
            verify_statement(examples.seal(typ, key, json_encode(value)), examples.ring(), examples.TRUST_DOMAIN)
        assert caught.value.step == 5


def test_a_document_of_another_type_is_not_a_statement() -> None:
    with pytest.raises(StatementError) as caught:
        verify_statement(VECTORS["freshness"]["token"], examples.ring(), examples.TRUST_DOMAIN)
    assert caught.value.step == 7


def test_fields_that_a_reader_does_not_know_are_ignored() -> None:
    payload = payload_of(examples.lease())[:-1] + b',"added_later":{"a":1}}'
    token = examples.seal(TYP_LEASE, "lease", payload)
    assert verify_statement(token, examples.ring(), examples.TRUST_DOMAIN).statement == examples.lease()


FRESH_MUTATIONS: dict[str, dict[str, object]] = {
    "another nonce": {"nonce": "bm90IHRoaXM"},
    "another node": {"node": "node_01jd7xq2vbh5s0d2yq8wv6g7pf"},
    "another generation": {"generation": 3},
    "another trust domain": {"trust_domain": "other.example"},
    "another statement": {"statement": "x"},
}


def test_freshness_holds_for_what_was_asked_only() -> None:
    statement = VECTORS["lease"]["token"]
    word = fresh.Freshness(
        trust_domain=examples.TRUST_DOMAIN,
        node=examples.NODE,
        generation=2,
        nonce="bm9uY2U",
        statement_sha256=sha256_hex(statement.encode()),
        at=examples.ISSUED,
    )
    token = examples.seal(fresh.TYP_FRESHNESS, "freshness", fresh.payload_of(word))
    asked = {
        "trust_domain": examples.TRUST_DOMAIN,
        "node": str(examples.NODE),
        "generation": 2,
        "nonce": "bm9uY2U",
        "statement": statement,
    }
    assert fresh.verify_freshness(token, examples.ring(), **asked) == word  # type: ignore[arg-type]  # a table of arguments
    for changes in FRESH_MUTATIONS.values():
        with pytest.raises(fresh.FreshnessError):
            fresh.verify_freshness(token, examples.ring(), **{**asked, **changes})  # type: ignore[arg-type]  # as above


def test_order_of_the_stream() -> None:
    lease, suspension, revocation = examples.lease(), examples.suspension(), examples.revocation()
    assert supersedes(lease, None)
    assert supersedes(suspension, lease)
    assert supersedes(examples.lease(seq=9), suspension)
    assert not supersedes(lease, suspension)
    assert not supersedes(lease, lease)
    assert supersedes(examples.lease(epoch=2, seq=1), examples.lease(seq=100))
    assert not supersedes(examples.lease(seq=100), revocation), "nothing follows a revocation"
    assert not supersedes(examples.lease(generation=3, seq=100), lease), "another generation is another stream"


def test_covers_is_half_open() -> None:
    key = examples.verification_key("lease")
    assert covers(key, key.not_before)
    assert not covers(key, key.not_after)


@settings(max_examples=50, deadline=None)
@given(
    seq=st.integers(1, 2**53 - 1),
    generation=st.integers(1, 10**6),
    entitlements=st.lists(st.text(min_size=1, max_size=20), max_size=5, unique=True),
)
def test_leases_round_trip(seq: int, generation: int, entitlements: list[str]) -> None:
    lease = examples.lease(seq=seq, generation=generation, entitlements=tuple(entitlements))
    assert json_decode(payload_of(lease), Lease) == lease
    token = seal(TYP_LEASE, examples.verification_key("lease").kid, payload_of(lease), examples.KEYS["lease"])
    assert verify_statement(token, examples.ring(), examples.TRUST_DOMAIN).statement == lease


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_the_payload_or_signature_never_verifies(data: st.DataObject) -> None:
    from protocol.encoding import b64url_decode, b64url_encode

    name = data.draw(st.sampled_from(sorted(VECTORS)))
    parts = [bytearray(b64url_decode(part)) for part in VECTORS[name]["token"].split(".")]
    part = parts[data.draw(st.integers(0, 2))]
    position = data.draw(st.integers(0, len(part) - 1))
    part[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises((EnvelopeError, StatementError, ProofError)):
        verify_any(name, ".".join(b64url_encode(bytes(part)) for part in parts))


def test_proofs_are_for_the_node_key_and_strict() -> None:
    with pytest.raises(ProofError):
        open_proof(VECTORS["session-proof"]["token"], examples.KEYS["lease"].public_key())
    with pytest.raises(ProofError):
        open_proof(VECTORS["session-proof"]["token"], "not a key")
    claims = json_encode(examples.proof_claims())[:-1] + b',"more":1}'
    with pytest.raises(ProofError):
        open_proof(examples.seal(TYP_SESSION_PROOF, "node", claims), examples.KEYS["node"].public_key())
    assert json_decode(json_encode(examples.proof_claims()), ProofClaims) == examples.proof_claims()
