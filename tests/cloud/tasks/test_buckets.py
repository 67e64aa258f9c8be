"""`cloud.tasks.buckets`: permits by key, and the half of every shared bucket that callers who use little keep."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.tasks.buckets import Buckets, Level, Rate, admit

RATE = Rate(4, 2.0)
rates = st.builds(Rate, st.integers(1, 50), st.sampled_from([0.125, 0.5, 1.0, 8.0]))
pauses = st.lists(st.sampled_from([0.0, 0.125, 0.25, 1.0, 5.0, 60.0]), max_size=80)


def test_a_bucket_gives_its_burst_and_then_one_permit_a_period() -> None:
    buckets = Buckets()
    level = [Level(buckets, "a", RATE)]
    assert [admit(level, 100.0) for _ in range(5)] == [0, 0, 0, 0, 2.0]
    assert admit(level, 101.0) == 1.0
    assert [admit(level, 102.0), admit(level, 102.0)] == [0, 2.0]
    assert admit([Level(buckets, "b", RATE)], 102.0) == 0
    assert [admit(level, 1000.0) for _ in range(5)] == [0, 0, 0, 0, 2.0]
    assert admit([], 1000.0) == 0


@given(rates, pauses, st.floats(0, 2**31))
def test_no_caller_gets_more_than_its_rate(rate: Rate, pauses: list[float], start: float) -> None:
    buckets, now, taken = Buckets(), start, 0
    for pause in pauses:
        now += pause
        wait = admit([Level(buckets, "a", rate)], now)
        taken += wait == 0
        assert 0 <= wait <= rate.seconds + 1e-3
        assert taken <= rate.within(now - start) + 1e-3
    if buckets.wait("a", rate, now) > 0:
        assert admit([Level(buckets, "a", rate)], now + rate.seconds + 1e-3) == 0


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    buckets = Buckets()
    for _ in range(4):
        admit([Level(buckets, "a", RATE)], 10_000.0)
    assert buckets.wait("a", RATE, 10_000.0) == 2.0
    assert admit([Level(buckets, "a", RATE)], 1000.0) == 0


def test_permits_that_the_database_has_seen_are_taken_at_once() -> None:
    buckets = Buckets()
    buckets.take("a", RATE, 0.0, 100)
    assert buckets.used("a", RATE, 0.0) == 4
    assert buckets.wait("a", RATE, 0.0) == 2.0


def test_permits_of_rows_are_taken_once() -> None:
    buckets = Buckets()
    for _ in range(2):
        buckets.catch_up("a", RATE, (0.0, 0.0), 0.0)
        assert buckets.used("a", RATE, 0.0) == 2
    buckets.take("a", RATE, 0.0)
    buckets.catch_up("a", RATE, (0.0, 0.0), 0.0)
    assert buckets.used("a", RATE, 0.0) == 3


def test_the_table_keeps_the_keys_that_were_used_last() -> None:
    buckets = Buckets(keys_max=3)
    for key in ("a", "b", "c", "a", "d"):
        buckets.take(key, RATE, 0.0)
    assert len(buckets) == 3
    assert [key in buckets for key in "abcd"] == [True, False, True, True]


def test_nothing_is_taken_when_a_level_refuses() -> None:
    own, whole = Buckets(), Buckets()
    whole.take("", Rate(10, 1.0), 0.0, 10)
    chain = [Level(own, "a", RATE), Level(whole, "", Rate(10, 1.0))]
    assert admit(chain, 0.0) == 1.0
    assert own.used("a", RATE, 0.0) == 0


@given(st.integers(1, 30), st.integers(1, 15))
@settings(max_examples=15)
def test_greedy_callers_leave_modest_callers_half_of_every_shared_bucket(greedy: int, modest: int) -> None:
    """However many callers send at full speed, a caller within half of its own bucket is admitted.

    The modest callers together stay within half of their tenant's bucket: 30 of 60.
    """
    own, tenant, whole = Rate(10, 1.0), Rate(60, 0.1), Rate(100, 0.05)
    tables = [Buckets() for _ in range(3)]

    def chain(caller: str, of: str) -> list[Level]:
        return [Level(tables[0], caller, own), Level(tables[1], of, tenant), Level(tables[2], "", whole)]

    # The hostile callers come over time, so some of their own buckets are still full.
    for second in range(30):
        for caller in range(min(greedy, second + 1)):
            for _ in range(12):
                admit(chain(f"greedy{caller}", "theirs"), float(second))
        if second % 10 == 9:
            for number in range(modest * 2):
                assert admit(chain(f"modest{number}-{second}", "ours"), float(second)) == 0, (number, second)
