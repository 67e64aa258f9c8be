"""`cloud.fabric.licensing.repairs`: how many restores of a node are repaired without a person."""

from datetime import UTC, datetime, timedelta

import pytest

from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.licensing.repairs import KEPT_MAX, is_allowed, next_allowed_at, used, with_repair

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def ago(*days: float) -> tuple[datetime, ...]:
    return tuple(NOW - timedelta(days=each) for each in days)


@pytest.mark.parametrize(
    ("quota", "repairs", "taken", "next_at"),
    [
        (1, (), 0, NOW),
        (1, ago(10), 1, NOW + timedelta(days=80)),
        (1, ago(89.5), 1, NOW + timedelta(days=0.5)),
        (1, ago(90), 0, NOW),
        (1, ago(200, 100), 0, NOW),
        (2, ago(100, 10), 1, NOW),
        (2, ago(50, 10), 2, NOW + timedelta(days=40)),
        (1, ago(50, 10), 2, NOW + timedelta(days=80)),
        (0, (), 0, None),
        (0, ago(10), 1, None),
    ],
)
def test_a_quota(quota: int, repairs: tuple[datetime, ...], taken: int, next_at: datetime | None) -> None:
    policy = RecoveryPolicy(repair_quota=quota, period_days=90)
    assert used(repairs, policy, NOW) == taken
    assert is_allowed(repairs, policy, NOW) is (next_at == NOW)
    assert next_allowed_at(repairs, policy, NOW) == next_at
    if next_at is not None:
        assert is_allowed(repairs, policy, next_at)


def test_the_last_repairs_are_kept() -> None:
    repairs: tuple[datetime, ...] = ()
    for number in range(KEPT_MAX + 2):
        repairs = with_repair(repairs, NOW + timedelta(days=number))
    assert len(repairs) == KEPT_MAX
    assert repairs[-1] == NOW + timedelta(days=KEPT_MAX + 1)
