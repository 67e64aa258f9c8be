"""`cloud.fabric.licensing.statements`: the next statement about a node, its dates and its `seq`."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from cloud.breakwater.pkix.profiles import DEVICE_LIFE_MAX
from cloud.fabric import schemas
from cloud.fabric.licensing import statements
from protocol.ids import NodeId, TenantId, make_id
from protocol.limits import SEQ_JUMP_MAX, SEQ_MAX
from protocol.signed.statements import Tier

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


@pytest.mark.parametrize(
    ("hours", "due"),
    [(-24, True), (-0.1, True), (-0.08, False), (0, False), (11.9, False), (12, True), (24, True), (1000, True)],
)
def test_when_a_lease_is_signed_again(hours: float, due: bool) -> None:
    assert statements.lease_is_due(NOW, NOW + DAY, NOW + timedelta(hours=hours)) is due
