"""`tests.schedule`: each worker's part begins with its long tests, and every test stays in the order once."""

import pytest

from tests.schedule import Length, dealt

LONG = {"a": Length(60), "b": Length(30), "c": Length(20), "g1": Length(25, "g"), "g2": Length(20, "g")}
TESTS = ["q1", "c", "q2", "g1", "a", "q3", "b", "g2", "q4", "q5", "q6"]


def test_long_tests_come_first_in_each_part() -> None:
    assert dealt(TESTS, LONG.get, 2) == ["a", "c", "q1", "q2", "q3", "g1", "g2", "b", "q4", "q5", "q6"]


def test_one_process_runs_the_longest_first() -> None:
    assert dealt(TESTS, LONG.get, 1) == ["a", "g1", "g2", "b", "c", "q1", "q2", "q3", "q4", "q5", "q6"]


@pytest.mark.parametrize("workers", range(1, 14))
def test_no_test_is_lost_and_each_group_stays_together(workers: int) -> None:
    order = dealt(TESTS, LONG.get, workers)
    assert sorted(order) == sorted(TESTS)
    assert order.index("g2") == order.index("g1") + 1
    assert dealt([], LONG.get, workers) == []
