"""The node's clocks."""

from datetime import UTC, timedelta

from node.clock import asleep_seconds, monotonic, utc_now


def test_the_wall_clock_is_aware_and_in_utc() -> None:
    before = utc_now()
    assert before.tzinfo is UTC
    assert timedelta(0) <= utc_now() - before < timedelta(minutes=1)


def test_the_monotonic_clock_never_goes_back() -> None:
    readings = [monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_the_time_asleep_does_not_change_while_the_machine_is_awake() -> None:
    readings = [asleep_seconds() for _ in range(100)]
    assert min(readings) > -0.01
    assert max(readings) - min(readings) < 0.5
