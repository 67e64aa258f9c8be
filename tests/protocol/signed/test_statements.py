"""Statements: literal vectors, tables of single mutations of lease and key, and the order of a stream."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.encoding import json_decode, json_encode
from protocol.limits import ENTITLEMENTS_MAX
from protocol.signed.envelope import EnvelopeError, KeyRing, seal
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
from tests.protocol.vectors.__main__ import vectors

VECTORS = vectors()


STATEMENTS = ("lease", "suspension", "revocation")


def lease_token(**changes: object) -> str:
    return examples.seal(TYP_LEASE, "lease", payload_of(examples.lease(**changes)))


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_vectors_verify(name: str) -> None:
    verified = verify_statement(VECTORS[name]["token"], examples.ring(), examples.TRUST_DOMAIN)
    assert verified.statement == examples.DOCUMENTS[name][2]
    assert typ_of(verified.statement) == VECTORS[name]["typ"]
    assert is_for(verified.statement, examples.TENANT, examples.NODE, 2)


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
