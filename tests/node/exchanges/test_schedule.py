"""Slots, jitter and back-off: within their bounds for every node, time and random number; and how a fleet spreads."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from node.exchanges import schedule
from protocol.limits import (
    CLOCK_SKEW,
    EVENT_WAIT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MIN,
    WAKE_SECONDS_MIN,
)
from protocol.signed.statements import Intervals
from tests.node.licensing.samples import DAY, KEY, NODE, T0, make_lease

LEASE = make_lease()
nodes = st.text(min_size=1, max_size=40)
instants = st.integers(946_684_800, 4_102_444_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
HEARTBEATS = st.floats(0.1, 3600)


@given(nodes, instants, HEARTBEATS)
def test_the_next_slot_is_ahead_and_within_a_period(node: str, now: datetime, heartbeat: float) -> None:
    ahead = (schedule.next_slot(node, now, heartbeat) - now).total_seconds()
    assert 0 < ahead <= heartbeat + 1e-3


@given(nodes, st.integers(0, 599))
def test_the_slot_is_fixed_by_the_node(node: str, seconds: int) -> None:
    first = schedule.next_slot(node, T0, 600)
    again = schedule.next_slot(node, first + timedelta(seconds=seconds, milliseconds=1), 600)
    assert abs((again - first).total_seconds() - 600) < 1e-3


def test_a_fleet_spreads_over_the_slots() -> None:
    slots = Counter(int((schedule.next_slot(f"node_{n}", T0, 600) - T0).total_seconds()) // 60 for n in range(6000))
    assert all(480 < slots[minute] < 720 for minute in range(10))


@given(nodes)
def test_a_connected_node_refreshes_before_it_is_due(node: str) -> None:
    at = schedule.refresh_at(LEASE, node)
    assert LEASE.issued_at + timedelta(hours=18) < at <= LEASE.refresh_after


def contact(
    now: datetime = T0, *, failures: int = 0, session_until: datetime | None = None, leased: bool = True
) -> float:
    return schedule.next_contact_seconds(
        now=now,
        node=NODE,
        lease=LEASE if leased else None,
        session_until=session_until,
        failures=failures,
        heartbeat_seconds=600,
    )


def test_contact_is_at_the_slot_or_sooner_for_lease_and_session() -> None:
    slot = (schedule.next_slot(NODE, T0, 600) - T0).total_seconds()
    assert contact() == contact(leased=False) == slot
    assert contact(session_until=T0 + timedelta(seconds=3)) == pytest.approx(2.0)
    assert contact(session_until=T0 - DAY) == slot
    refresh = schedule.refresh_at(LEASE, NODE)
    assert contact(refresh - timedelta(milliseconds=5)) == pytest.approx(0.005)
    assert 0 < contact(LEASE.terminate_at) <= 600


def test_after_a_failure_only_the_slot_counts() -> None:
    refresh = schedule.refresh_at(LEASE, NODE) - timedelta(milliseconds=5)
    slot = (schedule.next_slot(NODE, refresh, 600) - refresh).total_seconds()
    for failures in (1, 2, 1000):
        assert contact(refresh, failures=failures, session_until=refresh + timedelta(seconds=1)) == slot


@given(st.integers(1, 10**9), HEARTBEATS, st.integers())
def test_retries_are_full_jitter_below_the_cap(failures: int, heartbeat: float, seed: int) -> None:
    width = heartbeat * min(failures, schedule.RETRY_WIDTHS_MAX)
    assert 0 <= schedule.retry_seconds(failures, heartbeat, Random(seed)) < width
    assert 0 <= schedule.wake_reconnect_seconds(failures, heartbeat, Random(seed)) < width


def test_the_jitter_is_drawn_after_the_cap() -> None:
    random = Random(1)
    waits = [schedule.retry_seconds(50, 600, random) for _ in range(2000)]
    assert min(waits) < 60
    assert 1100 < sum(waits) / len(waits) < 1300


def test_a_channel_that_was_not_lost_opens_at_once() -> None:
    assert schedule.wake_reconnect_seconds(0, 600, Random(1)) == 0


def test_a_channel_that_was_cut_once_opens_soon_and_then_with_the_wide_waits() -> None:
    first = [schedule.wake_reconnect_seconds(1, 600, Random(seed)) for seed in range(2000)]
    assert max(first) <= 30
    assert 13 < sum(first) / len(first) < 17
    for lived, width in ((5, 30), (60, 60), (250, 120)):
        waits = [schedule.wake_reconnect_seconds(1, 600, Random(seed), lived) for seed in range(2000)]
        assert 0.9 * width < max(waits) <= width
    for losses, mean in ((2, 300), (3, 600), (9, 1200)):
        waits = [schedule.wake_reconnect_seconds(losses, 600, Random(seed)) for seed in range(2000)]
        assert 0.93 * mean < sum(waits) / len(waits) < 1.07 * mean


@given(st.integers())
def test_waits_of_settling_waking_and_trust(seed: int) -> None:
    assert 0.5 <= schedule.settle_retry_seconds(Random(seed)) <= 1.5
    assert 0 <= schedule.waking_seconds(Random(seed)) <= schedule.WAKING_SECONDS_MAX
    assert 64_800 <= schedule.trust_refresh_seconds(Random(seed)) <= 108_000
    assert 0 <= schedule.first_trust_refresh_seconds(Random(seed)) <= 3600


def test_a_session_is_renewed_at_two_thirds() -> None:
    assert schedule.session_renewal_at(T0, T0 + timedelta(hours=12)) == T0 + timedelta(hours=8)


def certificate(not_before: datetime = T0) -> bytes:
    name = x509.Name([])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(not_before)
        .not_valid_after(not_before + 100 * DAY)
        .sign(KEY, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def test_a_device_certificate_is_renewed_around_half_of_its_life() -> None:
    hours = {schedule.device_renewal_at(T0, T0 + 100 * DAY, f"node {number}") for number in range(500)}
    assert T0 + 40 * DAY <= min(hours) < T0 + 41 * DAY
    assert T0 + 59 * DAY < max(hours) <= T0 + 60 * DAY
    hour = schedule.device_renewal_at(T0, T0 + 100 * DAY, NODE)
    assert not schedule.device_renewal_due(certificate(), hour - timedelta(seconds=1), NODE)
    assert schedule.device_renewal_due(certificate(), hour, NODE)


def test_a_lease_orders_the_renewal_of_older_certificates() -> None:
    order = T0 + DAY
    ordered = msgspec.structs.replace(LEASE, renew_device_after=order)

    def due(made_at: datetime, now: datetime) -> bool:
        # `notBefore` is the time of issue minus the clock skew.
        return schedule.device_renewal_ordered(certificate(made_at - CLOCK_SKEW), ordered, now, NODE, 600)

    assert not due(T0, order - timedelta(seconds=1))
    assert due(T0, order + timedelta(seconds=600))
    assert not due(order, order + 30 * DAY)
    assert due(order - timedelta(seconds=1), order + 30 * DAY)
    assert not schedule.device_renewal_ordered(certificate(T0), LEASE, order + DAY, NODE, 600)
    assert not schedule.device_renewal_ordered(certificate(T0), None, order + DAY, NODE, 600)


def test_an_order_is_followed_within_a_heartbeat_and_not_at_once() -> None:
    order, old = T0 + DAY, certificate()
    at = [
        sum(
            schedule.device_renewal_ordered(
                old,
                msgspec.structs.replace(LEASE, renew_device_after=order),
                order + timedelta(seconds=seconds),
                f"node {number}",
                600,
            )
            for number in range(200)
        )
        for seconds in (0, 300, 600)
    ]
    assert at[0] < 5
    assert 60 < at[1] < 140
    assert at[2] == 200


@pytest.mark.parametrize("seed", range(20))
def test_a_new_trust_is_reported_within_a_tenth_of_a_heartbeat(seed: int) -> None:
    assert 0 <= schedule.adoption_seconds(600, Random(seed)) <= 60


def test_recovering_the_trust_is_not_repeated_within_ten_minutes() -> None:
    waits = {schedule.trust_recovery_seconds(f"node {number}") for number in range(100)}
    assert 600 <= min(waits) < max(waits) <= 1200


@pytest.mark.parametrize(
    ("intervals", "heartbeat", "poll"),
    [
        (None, 600.0, EVENT_WAIT_SECONDS_MAX),
        (Intervals(), 600.0, EVENT_WAIT_SECONDS_MAX),
        (Intervals(heartbeat_seconds=60, wake_seconds=30), 60.0, 30),
        (Intervals(heartbeat_seconds=0, wake_seconds=-1), HEARTBEAT_SECONDS_MIN, WAKE_SECONDS_MIN),
        (Intervals(heartbeat_seconds=10**9, wake_seconds=10**9), HEARTBEAT_SECONDS_MAX, EVENT_WAIT_SECONDS_MAX),
    ],
)
def test_the_intervals_of_the_lease_count_within_bounds(
    intervals: Intervals | None, heartbeat: float, poll: int
) -> None:
    lease = msgspec.structs.replace(LEASE, intervals=intervals)
    assert (schedule.heartbeat_of(lease, 600.0), schedule.longest_poll_of(lease)) == (heartbeat, poll)


def test_without_a_lease_the_agents_own_intervals_count() -> None:
    assert (schedule.heartbeat_of(None, 7.0), schedule.longest_poll_of(None)) == (7.0, EVENT_WAIT_SECONDS_MAX)
