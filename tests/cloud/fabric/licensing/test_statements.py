"""`cloud.fabric.licensing.statements`: the next statement about a node, its dates and its `seq`."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from cloud.breakwater.pkix.profiles import DEVICE_LIFE_MAX
from cloud.fabric import schemas
from cloud.fabric.licensing import statements
from protocol.ids import NodeId, RecoveryId, TenantId, make_id
from protocol.limits import SEQ_JUMP_MAX, SEQ_MAX
from protocol.signed.lease import check_lease
from protocol.signed.statements import Entitlement, HardwareFloor, LeaseInvalid, Tier

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SUBJECT = statements.Subject(
    trust_domain="cascade.test",
    tenant=TenantId(make_id("ten", 1, bytes(10))),
    node=NodeId(make_id("node", 1, bytes(10))),
    generation=3,
    epoch=1,
    tier="attested",
    profile="standard",
    entitlements=("press",),
    terms=statements.TERMS["attested"],
)


@pytest.mark.parametrize(
    ("tier", "hours"),
    [
        ("attested", (24, 30 * 24, 45 * 24, 60 * 24)),
        ("tpm", (24, 7 * 24, 14 * 24, 21 * 24)),
        ("software", (6, 3 * 24, 5 * 24, 7 * 24)),
    ],
)
def test_the_dates_of_each_tier(tier: Tier, hours: tuple[int, int, int, int]) -> None:
    lease = statements.lease(msgspec.structs.replace(SUBJECT, terms=statements.terms_of(tier, None)), 7, NOW)
    dates = (lease.refresh_after, lease.expires_at, lease.grace_until, lease.terminate_at)
    assert dates == tuple(NOW + timedelta(hours=count) for count in hours)
    assert lease.not_before < lease.issued_at == NOW
    assert all(NOW < at < lease.expires_at for at in lease.notify_at)


def test_a_code_may_have_other_dates() -> None:
    own = schemas.LeaseTerms(1, 2, 3, 4)
    assert statements.terms_of("tpm", own) is own
    lease = statements.lease(msgspec.structs.replace(SUBJECT, terms=own), 1, NOW)
    assert lease.terminate_at == NOW + timedelta(seconds=4)
    assert lease.notify_at == ()


@pytest.mark.parametrize("terms", [(0, 1, 2, 3), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3), (1, 2, 3, 10**10)])
def test_bad_dates(terms: tuple[int, int, int, int]) -> None:
    with pytest.raises(statements.TermsError):
        statements.check_terms(schemas.LeaseTerms(*terms))


@pytest.mark.parametrize(
    ("stored", "presented", "expected"),
    [
        (0, 0, 1),
        (5, 3, 6),
        (5, 5, 6),
        (5, 9, 10),
        (5, 5 + SEQ_JUMP_MAX, 6 + SEQ_JUMP_MAX),
        (5, 6 + SEQ_JUMP_MAX, 6),
        (SEQ_MAX - 2, SEQ_MAX, SEQ_MAX - 1),
    ],
)
def test_the_next_number(stored: int, presented: int, expected: int) -> None:
    assert statements.next_seq(stored, presented) == expected


def test_a_device_certificate_outlives_the_lease() -> None:
    for terms in statements.TERMS.values():
        lease = statements.lease(msgspec.structs.replace(SUBJECT, terms=terms), 1, NOW)
        assert statements.device_not_after(terms, NOW) >= lease.terminate_at + 30 * DAY


def test_no_lease_outlives_the_longest_device_certificate() -> None:
    longest = schemas.LeaseTerms(1, 1, 1, schemas.TERM_SECONDS_MAX)
    statements.check_terms(longest)
    assert statements.device_not_after(longest, NOW) <= NOW + DEVICE_LIFE_MAX


GRANTS = (
    "press",
    Entitlement(name="cameras", limit=8),
    Entitlement(name="trial", until=NOW + DAY),
    Entitlement(name="colour", attributes={"ink": "six"}),
)
BOUND = msgspec.structs.replace(
    SUBJECT,
    entitlements=GRANTS,
    version=2,
    node_key="3b" * 32,
    ek_name="000b" + "4c" * 32,
    floor=HardwareFloor(index=0x01800100),
    intervals=schemas.LeaseIntervals(heartbeat_seconds=300),
)


def test_version_2_says_every_fact_and_version_1_no_limited_entitlement() -> None:
    lease = statements.lease(BOUND, 7, NOW)
    check_lease(lease)
    assert (lease.version, lease.entitlements, lease.node_key, lease.ek_name, lease.floor) == (
        2,
        GRANTS,
        BOUND.node_key,
        BOUND.ek_name,
        BOUND.floor,
    )
    assert lease.intervals is not None
    assert (lease.intervals.heartbeat_seconds, lease.intervals.wake_seconds) == (300, None)
    older = statements.lease(msgspec.structs.replace(BOUND, version=1), 7, NOW)
    assert (older.version, older.entitlements, older.intervals) == (1, ("press", "colour"), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"node_key": "aa" * 32},
        {"ek_name": ""},
        {"floor": None},
        {"intervals": None},
        {"entitlements": ("press",)},
        {"version": 1},
    ],
)
def test_a_changed_fact_needs_a_new_lease(changes: dict[str, object]) -> None:
    assert statements.facts(msgspec.structs.replace(BOUND, **changes)) != statements.facts(BOUND)


def test_other_changes_wait_until_the_lease_is_due() -> None:
    later = msgspec.structs.replace(BOUND, epoch=9, terms=schemas.LeaseTerms(1, 2, 3, 4))
    assert statements.facts(later) == statements.facts(BOUND)
    assert statements.facts(SUBJECT) == "", "a lease of an earlier release has no hash"


@pytest.mark.parametrize(("days", "ends"), [(0, 30), (10, 30), (30, 30), (40, 40)])
def test_a_final_lease_ends_when_the_held_one_expires(days: int, ends: int) -> None:
    held, now = statements.lease(BOUND, 7, NOW), NOW + days * DAY
    final = statements.final_lease(BOUND, 8, now, held, "unpaid")
    check_lease(final)
    assert final.expires_at == final.grace_until == final.terminate_at == NOW + ends * DAY
    assert final.final is not None
    assert final.final.reason == "unpaid"
    assert all(now <= at < final.terminate_at for at in final.notify_at)
    assert final.refresh_after >= now, "the agent keeps asking, because paying brings another lease"


def test_a_final_lease_of_version_1_has_the_same_dates() -> None:
    first = msgspec.structs.replace(SUBJECT, version=1)
    final = statements.final_lease(first, 8, NOW + DAY, statements.lease(first, 7, NOW), "unpaid")
    assert (final.version, final.final, final.terminate_at) == (1, None, NOW + 30 * DAY)


def test_a_final_reason_has_a_limit() -> None:
    with pytest.raises(LeaseInvalid):
        check_lease(statements.final_lease(BOUND, 8, NOW, statements.lease(BOUND, 7, NOW), "x" * 201))


@pytest.mark.parametrize(
    ("hours", "due"),
    [(-24, True), (-0.1, True), (-0.08, False), (0, False), (11.9, False), (12, True), (24, True), (1000, True)],
)
def test_when_a_lease_is_signed_again(hours: float, due: bool) -> None:
    assert statements.lease_is_due(NOW, NOW + DAY, NOW + timedelta(hours=hours)) is due


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("until", "ends"),
    [(timedelta(hours=72), timedelta(hours=72)), (timedelta(hours=2), timedelta(hours=2)), (90 * DAY, 60 * DAY)],
)
def test_a_grace_lease_has_one_end_not_later_than_its_own(version: int, until: timedelta, ends: timedelta) -> None:
    case = RecoveryId(make_id("rcv", 1, bytes(10)))
    subject = msgspec.structs.replace(
        SUBJECT, version=version, node_key="3b" * 32 if version > 1 else "", recovery=case, grace_until=NOW + until
    )
    lease = statements.lease(subject, 7, NOW)
    check_lease(lease)
    assert lease.expires_at == lease.grace_until == lease.terminate_at == NOW + ends
    assert lease.refresh_after <= lease.terminate_at
    assert all(NOW < at < lease.terminate_at for at in lease.notify_at)
    assert (lease.recovery == case) is (version > 1), "version 1 cannot name a case"


def test_a_grace_lease_that_has_ended_grants_nothing_and_is_in_order() -> None:
    lease = statements.lease(msgspec.structs.replace(SUBJECT, grace_until=NOW - DAY), 7, NOW)
    check_lease(lease)
    assert lease.terminate_at == NOW


def test_the_end_of_a_recovery_case_is_a_fact_of_the_lease() -> None:
    plain = msgspec.structs.replace(SUBJECT, version=2, node_key="3b" * 32)
    grace = msgspec.structs.replace(plain, recovery=RecoveryId(make_id("rcv", 1, bytes(10))), grace_until=NOW + DAY)
    assert statements.facts(grace) != statements.facts(plain)
    assert statements.facts(msgspec.structs.replace(grace, grace_until=NOW)) == statements.facts(grace), "a date"
    assert statements.facts(plain) == "42ca4ca09488b107d1a620a201db37369ddb18aa942ec5ea1f8b87b8456d4c2e", (
        "the hash of earlier releases"
    )
