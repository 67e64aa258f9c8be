"""Pure functions: the quota of automatic repairs, for machines that were restored from a backup.

A machine that was restored has an older state of its disk, so it shows a renewal token or a key of before. Fabric
repairs the node without a person, up to `repair_quota` times in a period. A further restore waits for an operator.
"""

from datetime import datetime, timedelta

from cloud.fabric.bodies.recovery import RecoveryPolicy

KEPT_MAX = 32
"""Times of automatic repairs that are kept. A quota above this number allows every repair."""


def used(repairs: tuple[datetime, ...], policy: RecoveryPolicy, now: datetime) -> int:
    """How many of the repairs are in the period that ends now."""
    return sum(at > now - timedelta(days=policy.period_days) for at in repairs)


def is_allowed(repairs: tuple[datetime, ...], policy: RecoveryPolicy, now: datetime) -> bool:
    """Whether the next restore is repaired without a person."""
    return used(repairs, policy, now) < policy.repair_quota


def next_allowed_at(repairs: tuple[datetime, ...], policy: RecoveryPolicy, now: datetime) -> datetime | None:
    """The time from which a restore is repaired without a person: `now` if it is so already, None if it never is."""
    if is_allowed(repairs, policy, now):
        return now
    if policy.repair_quota < 1:
        return None
    return sorted(repairs)[-policy.repair_quota] + timedelta(days=policy.period_days)


def with_repair(repairs: tuple[datetime, ...], now: datetime) -> tuple[datetime, ...]:
    """The repairs with one more."""
    return (*repairs, now)[-KEPT_MAX:]
