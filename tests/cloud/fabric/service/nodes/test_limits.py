"""`cloud.fabric.service.nodes.limits`: a hostile node, chip or source leaves the others their share."""

from datetime import UTC, datetime, timedelta

from cloud.contracts.breakwater import SESSIONS_PER_NODE
from cloud.fabric.errors import TooOften
from cloud.fabric.service.nodes.limits import (
    CHALLENGES_PER_CHIP,
    CHALLENGES_PER_CODE,
    CHALLENGES_PER_SOURCE,
    STORED_PERIOD,
    STORED_READINGS,
    ActivationLimits,
    SessionLimits,
)
from protocol.ids import CodeId, NodeId, TenantId

NOW = datetime(2026, 11, 30, tzinfo=UTC)
CODE = CodeId("code_1")


def session(limits: SessionLimits, node: str, tenant: str = "ten_1", now: datetime = NOW) -> bool:
    try:
        limits.count(TenantId(tenant), NodeId(node), now)
    except TooOften:
        return False
    return True


def challenge(limits: ActivationLimits, source: str, chip: str, code: CodeId = CODE, now: datetime = NOW) -> bool:
    try:
        limits.count(code, source, chip, now)
    except TooOften:
        return False
    return True


def test_one_node_at_full_speed_for_a_minute_and_for_a_day() -> None:
    limits = SessionLimits()
    taken = sum(session(limits, "hostile", now=NOW + timedelta(seconds=number / 119)) for number in range(119 * 60))
    assert taken == SESSIONS_PER_NODE.burst + 1
    assert session(limits, "honest")
    assert SESSIONS_PER_NODE.within(86_400) == 3000


def test_ten_thousand_nodes_open_a_session_at_once() -> None:
    limits = SessionLimits()
    assert all(session(limits, f"n{number}") for number in range(10_000))


def test_one_chip_blocks_no_site() -> None:
    limits = ActivationLimits()
    assert sum(challenge(limits, "192.0.2.66", "hostile") for _ in range(1000)) == CHALLENGES_PER_CHIP.burst
    assert all(challenge(limits, "192.0.2.66", f"chip{number}") for number in range(500))


def test_one_source_with_invented_chips_blocks_no_other_site_with_the_code() -> None:
    limits = ActivationLimits()
    hostile = sum(challenge(limits, "192.0.2.66", f"invented{number}") for number in range(10_000))
    assert hostile == CHALLENGES_PER_SOURCE.burst
    for source in range(3):
        assert all(challenge(limits, f"198.51.100.{source}", f"chip{number}") for number in range(500))
    assert challenge(limits, "192.0.2.66", "chip1", CodeId("code_2"))


def test_a_hostile_code_gains_no_burst_by_restarts_and_replicas() -> None:
    """Two processes, of which one restarts every ten seconds, count the rows of both. Each request has its own address.

    Between two readings, each process gives the permits that come in again.
    """
    factor, made, now, readings = 0.1, list[datetime](), NOW, 0
    rate = CHALLENGES_PER_CODE.times(factor)
    lasting, restarting = ActivationLimits(factor), ActivationLimits(factor)
    for number in range(4 * rate.burst):
        now += timedelta(milliseconds=100)
        if number % 100 == 0:
            restarting = ActivationLimits(factor)
        limits = lasting if number % 2 else restarting
        if limits.wants_stored(CODE, now):
            readings += 1
            limits.count_stored(CODE, made[-limits.stored_max :], now)
        if challenge(limits, f"source{number}", "chip", now=now):
            made.append(now)
    seconds = (now - NOW).total_seconds()
    assert rate.within(seconds) - 1 <= len(made) <= 1.1 * rate.within(seconds)
    starts = 4 * rate.burst / 100
    assert readings <= starts * STORED_READINGS.burst + STORED_READINGS.within(seconds)


def test_challenges_of_long_ago_do_not_count() -> None:
    limits = ActivationLimits()
    assert limits.wants_stored(CODE, NOW)
    limits.count_stored(CODE, [NOW - STORED_PERIOD] * 10, NOW)
    assert challenge(limits, "192.0.2.1", "chip")
    assert limits._codes.used(CODE, CHALLENGES_PER_CODE, NOW.timestamp()) == 1
    assert not limits.wants_stored(CODE, NOW)
