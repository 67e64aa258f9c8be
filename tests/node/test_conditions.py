"""Conditions: what is wrong now, by code, with the time of the first report."""

from datetime import UTC, datetime, timedelta

from node import conditions
from node.conditions import Condition, Conditions
from node.errors import NodeError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Moving:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_a_repeated_report_keeps_the_time_of_the_first() -> None:
    clock = Moving()
    register = Conditions(clock)
    assert register.report("disk_full", "no space", "free some")
    clock.now += timedelta(hours=1)
    assert not register.report("disk_full", "still no space", "free some")
    assert register.current() == (Condition("disk_full", "still no space", "free some", NOW),)


def test_a_cleared_condition_is_gone_and_may_come_again() -> None:
    clock = Moving()
    register = Conditions(clock)
    register.report("disk_full", "no space")
    register.clear("disk_full")
    register.clear("disk_full")
    assert register.current() == ()
    clock.now += timedelta(hours=1)
    assert register.report_error(NodeError.of("again", exit=NodeError.exit, code="disk_full", next="free some"))
    assert register.current() == (Condition("disk_full", "again", "free some", clock.now),)


def test_conditions_and_their_texts_are_bounded() -> None:
    register = Conditions(Moving())
    for number in range(conditions.CONDITIONS_MAX + 5):
        register.report(f"code_{number}", "x" * 10_000, "y" * 10_000)
    current = register.current()
    assert len(current) == conditions.CONDITIONS_MAX
    assert len(current[0].text) == len(current[0].next) == conditions.TEXT_CHARACTERS_MAX
