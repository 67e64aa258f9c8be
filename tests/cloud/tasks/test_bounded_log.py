"""`cloud.tasks.bounded_log`: a flood of one kind is one line a period, with the number of those left out."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from cloud.tasks.bounded_log import KINDS_MAX, OTHER, PERIOD, BoundedLog

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LOG = logging.getLogger("cascade.test.bounded")


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    return [(record.__dict__["kind"], record.__dict__["left_out"]) for record in caplog.records]


def test_the_first_of_a_period_is_logged_and_the_next_period_counts_the_others(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    said = BoundedLog(LOG, clock)
    for _ in range(1000):
        said.warn("a", "said", detail=7)
    said.warn("b", "said")
    clock.at += PERIOD
    said.warn("a", "said")
    assert lines(caplog) == [("a", 0), ("b", 0), ("a", 999)]
    assert caplog.records[0].__dict__["detail"] == 7


def test_kinds_without_room_count_together(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    said = BoundedLog(LOG, clock)
    for number in range(10 * KINDS_MAX):
        said.warn(f"kind {number}", "said")
    assert len(caplog.records) == KINDS_MAX + 1
    assert lines(caplog)[-1] == (OTHER, 0)
    clock.at += PERIOD + timedelta(seconds=1)
    said.warn("a new kind", "said")
    assert lines(caplog)[-1] == ("a new kind", 0)
