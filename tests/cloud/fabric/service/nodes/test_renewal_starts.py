"""`cloud.fabric.service.nodes.renewal_starts`: separate limits for each certificate and in total."""

from datetime import UTC, datetime

from cloud.fabric.errors import TooManyChallenges
from cloud.fabric.service.nodes.renewal_starts import STARTS_PER_CERTIFICATE_MAX, STARTS_PERIOD, RenewalStarts

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def refused(starts: RenewalStarts, proven: str, now: datetime = NOW) -> bool:
    try:
        starts.count(proven, now)
    except TooManyChallenges:
        return True
    return False


def test_one_certificate_is_bounded_for_a_while() -> None:
    starts = RenewalStarts()
    answers = [refused(starts, "ca.1") for _ in range(STARTS_PER_CERTIFICATE_MAX + 2)]
    assert answers == [False] * STARTS_PER_CERTIFICATE_MAX + [True] * 2
    assert not refused(starts, "ca.2")
    assert not refused(starts, "ca.1", NOW + STARTS_PERIOD)


def test_all_certificates_together_are_bounded_and_a_refusal_takes_no_place() -> None:
    starts = RenewalStarts(starts_max=3)
    assert [refused(starts, f"ca.{number}") for number in range(5)] == [False] * 3 + [True] * 2
    assert not refused(starts, "ca.4", NOW + STARTS_PERIOD)
    assert len(starts._tally) == 2


def test_certificates_of_unknown_cas_are_counted_apart() -> None:
    starts = RenewalStarts(starts_max=3)
    assert [refused(starts, "") for _ in range(5)] == [False] * 3 + [True] * 2
    assert not refused(starts, "ca.1")


def test_the_names_of_certificates_do_not_pile_up() -> None:
    starts = RenewalStarts()
    for number in range(100):
        starts.count(f"ca.{number}", NOW + number * STARTS_PERIOD)
    assert len(starts._tally) == 2
