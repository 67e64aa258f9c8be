"""Leases of both versions: single mutations of version 2, the largest lease, round trips, and the order of versions."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.encoding import json_decode, json_encode
from protocol.fingerprint import KINDS_MAX, WEIGHT_MAX, EnrolledKind, FingerprintPolicy
from protocol.ids import make_id
from protocol.limits import (
    ATTRIBUTES_MAX,
    ENTITLEMENT_NAME_CHARS_MAX,
    ENTITLEMENTS_BYTES_MAX,
    ENTITLEMENTS_MAX,
    ENVELOPE_BYTES_MAX,
    LIMIT_MAX,
    NAME_CHARS_MAX,
    NOTIFY_DATES_MAX,
    REASON_CHARS_MAX,
)
from protocol.signed.lease import Grant, LeaseInvalid, LeaseV1, check_entitlements
from protocol.signed.statements import (
    TYP_LEASE,
    TYP_LEASE_V2,
    Entitlement,
    Final,
    HardwareFloor,
    Holder,
    Lease,
    StatementError,
    Verified,
    payload_of,
    supersedes,
    typ_of,
    verify_statement,
)
from tests.protocol.vectors import examples
from tests.protocol.vectors.__main__ import vectors

HOLDER = Holder(examples.TRUST_DOMAIN, examples.TENANT, examples.NODE, 2, (examples.NODE_KEY,), examples.EK_NAME)


def verified(lease: Lease, typ: str = TYP_LEASE_V2) -> Verified:
    return verify_statement(examples.seal(typ, "lease", payload_of(lease)), examples.ring(), examples.TRUST_DOMAIN)


def term(**changes: object) -> dict[str, object]:
    return {"entitlements": (Entitlement(**{"name": "cameras", **changes}),)}  # type: ignore[arg-type]  # as in examples


def test_the_vectors_of_version_2_verify() -> None:
    for name, ordinary in (("lease-v2", True), ("lease-v2-final", False)):
        lease = verify_statement(vectors()[name]["token"], examples.ring(), examples.TRUST_DOMAIN).statement
        assert lease == examples.DOCUMENTS[name][2]
        assert isinstance(lease, Lease)
        assert (lease.version, lease.final is None, typ_of(lease)) == (2, ordinary, vectors()[name]["typ"])


MUTATIONS: dict[str, tuple[dict[str, object], int]] = {
    "no node key": ({"node_key": "", "entitlements": ("vision",)}, 8),
    "a node key in capitals": ({"node_key": "3B" * 32}, 10),
    "half a node key": ({"node_key": "3b" * 16}, 10),
    "an EK name of another hash": ({"ek_name": "0004" + "4c" * 20}, 10),
    "an EK name that is cut": ({"ek_name": examples.EK_NAME[:-2]}, 10),
    "a fingerprint without an anchor": (
        {
            "fingerprint": FingerprintPolicy(
                matched_percent_min=60, kinds=(EnrolledKind("mac", 10, False, ("6e" * 16,)),)
            )
        },
        10,
    ),
    "a floor at a persistent handle": ({"floor": HardwareFloor(index=0x81000001)}, 10),
    "too many dates of notification": ({"notify_at": (examples.ISSUED,) * (NOTIFY_DATES_MAX + 1)}, 10),
    "a date of notification without zone": ({"notify_at": (examples.ISSUED.replace(tzinfo=None),)}, 8),
    "a final lease with a grace": ({"final": Final(reason="unpaid")}, 10),
    "a final reason that is too long": (
        {
            "final": Final(reason="x" * (REASON_CHARS_MAX + 1)),
            "grace_until": examples.ISSUED + timedelta(days=30),
            "terminate_at": examples.ISSUED + timedelta(days=30),
        },
        10,
    ),
    "a grace lease of a recovery with a grace": ({"recovery": make_id("rcv", 1, bytes(10))}, 10),
    "a grace lease of another kind of case": (
        {
            "recovery": make_id("ren", 1, bytes(10)),
            "grace_until": examples.ISSUED + timedelta(days=30),
            "terminate_at": examples.ISSUED + timedelta(days=30),
        },
        10,
    ),
    "a negative limit": (term(limit=-1), 10),
    "a limit that is too large": (term(limit=LIMIT_MAX + 1), 10),
    "an end before the start": (term(not_before=examples.ISSUED, until=examples.ISSUED), 10),
    "an end without zone": (term(until=examples.ISSUED.replace(tzinfo=None)), 8),
    "too many attributes": (term(attributes={str(number): "" for number in range(ATTRIBUTES_MAX + 1)}), 10),
    "an attribute without name": (term(attributes={"": "x"}), 10),
    "an attribute that is too long": (term(attributes={"x": "x" * 257}), 10),
    "a name without terms and with them": ({"entitlements": ("cameras", Entitlement(name="cameras", limit=1))}, 10),
    "terms without a name": (term(name=""), 10),
    "entitlements that are too long together": (
        {"entitlements": tuple(Entitlement(name=f"{number}", attributes={"x": "x" * 180}) for number in range(90))},
        10,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_mutation_of_a_lease_of_version_2(name: str) -> None:
    changes, step = MUTATIONS[name]
    with pytest.raises(StatementError) as caught:
        verified(examples.lease_v2(**changes))
    assert caught.value.step == step


def test_a_grace_lease_of_a_recovery_names_its_case() -> None:
    ends = examples.ISSUED + timedelta(days=30)
    case = make_id("rcv", 1, bytes(10))
    lease = examples.lease_v2(expires_at=ends, grace_until=ends, terminate_at=ends, recovery=case)
    statement = verified(lease).statement
    assert isinstance(statement, Lease)
    assert statement.recovery == case
    assert b"recovery" not in payload_of(examples.lease_v2())


def test_the_typ_decides_how_a_payload_is_read() -> None:
    with pytest.raises(StatementError) as caught:
        verified(examples.lease(), TYP_LEASE_V2)
    assert caught.value.step == 8
    with pytest.raises(StatementError) as caught:
        verified(examples.lease_v2(), TYP_LEASE)
    assert caught.value.step == 8, "version 1 has no entitlements with terms"
    plain = verified(examples.lease_v2(entitlements=("vision",)), TYP_LEASE).statement
    assert isinstance(plain, Lease)
    assert (plain.version, plain.node_key, plain.floor) == (1, "", None), "a reader of version 1 ignores other fields"


def test_version_1_cannot_say_terms() -> None:
    with pytest.raises(ValueError, match="version 1"):
        payload_of(examples.lease(entitlements=(Entitlement(name="cameras", limit=8),)))


def test_both_versions_are_one_stream() -> None:
    first, second = examples.lease(seq=7), examples.lease_v2(seq=8)
    assert supersedes(second, first)
    assert not supersedes(first, second)
    assert supersedes(examples.lease(seq=9), second), "an agent that was replaced by an older one reads version 1"
    assert not supersedes(examples.lease_v2(seq=99), examples.revocation())


OTHER_KEY, OTHER_EK = "aa" * 32, "000b" + "bb" * 32
BINDINGS: dict[str, tuple[Holder, Lease, bool]] = {
    "its key and chip": (HOLDER, examples.lease_v2(), True),
    "another key": (HOLDER, examples.lease_v2(node_key=OTHER_KEY), False),
    "another chip": (HOLDER, examples.lease_v2(ek_name=OTHER_EK), False),
    "the key before a rekey": (
        msgspec.structs.replace(HOLDER, node_keys=(OTHER_KEY, examples.NODE_KEY)),
        examples.lease_v2(),
        True,
    ),
    "a cloud that does not know the chip": (HOLDER, examples.lease_v2(ek_name=""), True),
    "a node that does not know its chip": (msgspec.structs.replace(HOLDER, ek_name=""), examples.lease_v2(), True),
    "version 1": (HOLDER, examples.lease(), True),
    "another generation": (HOLDER, examples.lease_v2(generation=3), False),
    "its next generation": (HOLDER.of_generation(3), examples.lease_v2(generation=3, node_key=OTHER_KEY), True),
    "its next generation on another chip": (
        HOLDER.of_generation(3),
        examples.lease_v2(generation=3, ek_name=OTHER_EK),
        False,
    ),
}


@pytest.mark.parametrize("name", BINDINGS)
def test_a_lease_counts_for_its_key_and_its_chip_only(name: str) -> None:
    holder, lease, counts = BINDINGS[name]
    assert holder.holds(lease) is counts


def test_entitlements_are_found_by_name() -> None:
    lease = examples.lease_v2()
    assert lease.names == ("vision", "cameras")
    assert lease.entitlement("vision") == Entitlement(name="vision")
    cameras = lease.entitlement("cameras")
    assert cameras is not None
    assert cameras.limit == 8
    assert lease.entitlement("export") is None


def test_the_largest_lease_fits_into_an_envelope() -> None:
    wide = "\U0001f40b"
    grants = _filled()
    moment = timedelta(microseconds=123456)
    lease = examples.lease_v2(
        trust_domain="d" * 254,
        generation=999_999_999,
        epoch=LIMIT_MAX,
        seq=LIMIT_MAX,
        issued_at=examples.ISSUED + moment,
        profile=wide * NAME_CHARS_MAX,
        entitlements=grants,
        refresh_after=examples.ISSUED + moment,
        **{
            name: examples.ISSUED + timedelta(days=30) + moment
            for name in ("expires_at", "grace_until", "terminate_at")
        },
        notify_at=(examples.ISSUED + moment,) * NOTIFY_DATES_MAX,
        renew_device_after=examples.ISSUED + moment,
        fingerprint=FingerprintPolicy(
            matched_percent_min=100,
            kinds=tuple(
                EnrolledKind(f"k{number:031}", WEIGHT_MAX, number == 0, (f"{number:032}",) * 2)
                for number in range(KINDS_MAX)
            ),
        ),
        ek_name="000d" + "4c" * 64,
        final=Final(reason=wide * REASON_CHARS_MAX),
    )
    token = examples.seal(TYP_LEASE_V2, "lease", payload_of(lease))
    assert len(token) <= ENVELOPE_BYTES_MAX
    assert verify_statement(token, examples.ring(), "d" * 254).statement == lease


def _filled() -> tuple[Grant, ...]:
    """As many entitlements as the bound of their size allows: one byte more is refused."""
    grants: tuple[Grant, ...] = ()
    room = ENTITLEMENTS_BYTES_MAX
    while room > 256:
        grants = (*grants, Entitlement(name=f"{len(grants)}", attributes={"x": "y" * 200}))
        room = ENTITLEMENTS_BYTES_MAX - len(json_encode(grants)) - len(',{"name":"x","attributes":{"x":""}}')
    full = (*grants, Entitlement(name="x", attributes={"x": "y" * room}))
    check_entitlements(full)
    with pytest.raises(LeaseInvalid):
        check_entitlements((*grants, Entitlement(name="x", attributes={"x": "y" * (room + 1)})))
    return full


def test_names_without_terms_always_fit() -> None:
    """256 names of 64 ASCII characters were allowed before there was a bound of the size."""
    names_only = tuple(f"{number:0{ENTITLEMENT_NAME_CHARS_MAX}}" for number in range(ENTITLEMENTS_MAX))
    assert len(json_encode(names_only)) <= ENTITLEMENTS_BYTES_MAX


names = st.text(max_size=20).filter(bool)
dates = st.one_of(st.none(), st.integers(0, 10**6).map(lambda seconds: examples.ISSUED + timedelta(seconds=seconds)))
terms = st.builds(
    Entitlement,
    name=names,
    limit=st.one_of(st.none(), st.integers(0, LIMIT_MAX)),
    until=dates,
    attributes=st.dictionaries(names, st.text(max_size=20), max_size=3),
)


@settings(max_examples=20, deadline=None)
@given(entitlements=st.lists(st.one_of(names, terms), max_size=5), seq=st.integers(1, 2**53 - 1))
def test_leases_of_version_2_round_trip(entitlements: list[Grant], seq: int) -> None:
    unique = {grant if isinstance(grant, str) else grant.name: grant for grant in entitlements}
    lease = examples.lease_v2(entitlements=tuple(unique.values()), seq=seq)
    assert verified(lease).statement == lease
    assert json_decode(payload_of(lease), Lease) == lease


def test_the_encoding_of_version_1_has_the_fields_of_version_1_only() -> None:
    """The fields are literal here, because nothing may be added to them any more."""
    assert LeaseV1.__struct_fields__ == (
        *("trust_domain", "tenant", "node", "generation", "epoch", "seq", "issued_at", "tier", "profile"),
        *("entitlements", "not_before", "refresh_after", "expires_at", "grace_until", "terminate_at", "notify_at"),
        "renew_device_after",
    )
