"""`cloud.tasks.tally`: counts within each key's period, for a limited number of keys."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cloud.tasks.tally import Counted, Tally

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def test_events_are_counted_by_key() -> None:
    tally: Tally[str] = Tally(HOUR, 10)
    assert [tally.add(key, NOW) for key in ("a", "a", "b", "a")] == [1, 2, 1, 3]
    assert [tally.count(key, NOW) for key in ("a", "b", "c")] == [3, 1, 0]
    assert len(tally) == 2


def test_a_period_begins_with_the_first_event_of_a_key_and_no_event_moves_it() -> None:
    tally: Tally[str] = Tally(HOUR, 10)
    tally.add("a", NOW)
    tally.add("a", NOW + HOUR - SECOND)
    assert tally.count("a", NOW + HOUR - SECOND) == 2
    assert tally.time_left("a", NOW + HOUR - SECOND) == SECOND
    assert tally.count("a", NOW + HOUR) == 0
    assert tally.time_left("a", NOW + HOUR) == timedelta(0)
    assert tally.add("a", NOW + HOUR) == 1
    assert tally.time_left("a", NOW + HOUR) == HOUR


def test_a_clock_that_was_set_back_begins_a_new_period() -> None:
    tally: Tally[str] = Tally(HOUR, 10)
    tally.add("a", NOW)
    assert tally.count("a", NOW - SECOND) == 0
    assert tally.add("a", NOW - SECOND) == 1
    assert tally.time_left("a", NOW - SECOND) == HOUR


def test_an_ended_period_is_dropped_with_its_count() -> None:
    tally: Tally[str] = Tally(HOUR, 10)
    tally.add("a", NOW)
    tally.add("a", NOW)
    assert tally.end("a", NOW + HOUR - SECOND) is None
    assert tally.end("a", NOW + HOUR) == Counted(NOW, 2)
    assert tally.end("a", NOW + HOUR) is None
    assert len(tally) == 0


def test_all_ended_periods_are_dropped_and_no_running_one() -> None:
    tally: Tally[str] = Tally(HOUR, 10)
    for minutes, key in enumerate("abc"):
        tally.add(key, NOW + timedelta(minutes=minutes))
    assert tally.end_all(NOW + HOUR + timedelta(minutes=1)) == [
        ("a", Counted(NOW, 1)),
        ("b", Counted(NOW + timedelta(minutes=1), 1)),
    ]
    assert tally.end_all() == [("c", Counted(NOW + timedelta(minutes=2), 1))]
    assert tally.end_all() == []


def test_a_key_whose_period_began_again_ends_after_the_others() -> None:
    tally: Tally[str] = Tally(HOUR, 10)
    tally.add("a", NOW)
    tally.add("b", NOW + SECOND)
    tally.add("a", NOW + HOUR)
    assert [key for key, _ in tally.end_all(NOW + HOUR + SECOND)] == ["b"]


def test_callers_that_ask_for_room_bound_the_keys() -> None:
    tally: Tally[str] = Tally(HOUR, 2)
    tally.add("a", NOW)
    tally.add("b", NOW + SECOND)
    assert [tally.has_room(key) for key in ("a", "b", "c")] == [True, True, False]
    tally.end_all(NOW + HOUR)
    assert tally.has_room("c")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7200)), max_size=30))
def test_no_more_than_the_count_falls_into_any_period(events: list[tuple[str, int]]) -> None:
    tally: Tally[str] = Tally(HOUR, 10)
    seen: list[tuple[str, datetime]] = []
    for key, seconds in sorted(events, key=lambda event: event[1]):
        at = NOW + timedelta(seconds=seconds)
        count = tally.add(key, at)
        seen.append((key, at))
        begun = at + tally.time_left(key, at) - HOUR
        assert count == sum(1 for other, when in seen if other == key and begun <= when <= at)
