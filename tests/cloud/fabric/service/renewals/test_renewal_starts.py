"""`cloud.fabric.service.renewals.renewal_starts`: limits by node, tenant and source, and none for the failures of others."""

from datetime import UTC, datetime, timedelta

from cloud.fabric.errors import TooOften
from cloud.fabric.service.renewals.renewal_starts import STARTS_PER_NODE, STARTS_PER_SOURCE, RenewalStarts
from cloud.tasks.buckets import Rate
from protocol.ids import NodeId, TenantId

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def refused(
    starts: RenewalStarts, node: str, tenant: str = "ten", *, source: str = "", proven: bool = True, now: datetime = NOW
) -> bool:
    try:
        starts.count(TenantId(tenant), NodeId(node), source, now, proven=proven)
    except TooOften:
        return True
    return False


def test_one_node_is_bounded_for_a_while() -> None:
    starts = RenewalStarts()
    answers = [refused(starts, "a") for _ in range(STARTS_PER_NODE.burst + 2)]
    assert answers == [False] * STARTS_PER_NODE.burst + [True] * 2
    assert not refused(starts, "b")
    assert not refused(starts, "a", now=NOW + timedelta(seconds=STARTS_PER_NODE.seconds))


def test_nodes_that_start_often_leave_half_of_the_places_to_others() -> None:
    """A hostile caller with copies of 120 certificates once blocked every renewal."""
    starts = RenewalStarts(Rate(200, 0.05))
    taken = sum(not refused(starts, f"copied{number % 20}", "theirs") for number in range(2000))
    assert taken <= 130
    assert [refused(starts, f"honest{number}", "ours") for number in range(70)] == [False] * 70


def test_certificates_of_unknown_cas_are_counted_by_source_and_apart() -> None:
    starts = RenewalStarts(Rate(4_000, 0.05))
    made_up = [refused(starts, f"n{number}", source="192.0.2.66", proven=False) for number in range(1500)]
    assert made_up.count(False) == STARTS_PER_SOURCE.burst
    assert not refused(starts, "n1", source="198.51.100.1", proven=False)
    assert not refused(starts, "n1", source="192.0.2.66")


def test_an_ipv6_site_leaves_half_of_the_places_of_unknown_cas_to_others() -> None:
    starts = RenewalStarts(Rate(200, 0.05))
    sources = [f"2001:db8:0:{number:x}::/64" for number in range(1000)]
    assert sum(not refused(starts, "n", source=source, proven=False) for source in sources) == 100
    assert not refused(starts, "n", source="2001:db8:1:1::/64", proven=False)
