"""Quick contacts until the first answer: bounded in time and number, and none after an answer."""

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from node.exchanges import schedule
from node.exchanges.first_answer import FirstAnswer

SEEDS = st.integers(0, 2**32)


def contacts(first: FirstAnswer, now: float) -> list[float]:
    """The times of the quick contacts without an answer, from `now` on."""
    made = []
    while (wait := first.seconds(now)) is not None:
        now += wait
        made.append(now)
        first.tried()
    return made


@given(SEEDS, st.floats(0, 1e6))
def test_quick_contacts_end_after_a_heartbeat(seed: int, start: float) -> None:
    made = contacts(FirstAnswer(start, 600, Random(seed)), start)
    assert 10 <= len(made) <= 27
    assert 1 <= made[0] - start <= 2
    assert made[-1] <= start + 660
    pauses = [later - sooner for sooner, later in pairwise(made)]
    assert all(1 <= pause <= schedule.FIRST_ANSWER_SECONDS_MAX for pause in pauses)


@given(SEEDS)
def test_a_network_that_comes_soon_is_used_soon(seed: int) -> None:
    made = contacts(FirstAnswer(0, 600, Random(seed)), 0)
    for comes in range(500):
        assert min(at for at in made if at >= comes) - comes <= min(60, 2 * (comes + 1))


def test_the_time_of_a_contact_stays_until_the_contact() -> None:
    first = FirstAnswer(0, 600, Random(1))
    wait = first.seconds(0)
    assert wait is not None
    assert first.seconds(0.5) == wait - 0.5
    assert first.seconds(100) == 0


@given(SEEDS)
def test_after_an_answer_only_a_move_of_a_clock_begins_again(seed: int) -> None:
    first = FirstAnswer(0, 600, Random(seed))
    first.answered()
    assert first.seconds(0) is None
    first.begin(5000)
    wait = first.seconds(5000)
    assert wait is not None
    assert 0 <= wait <= schedule.WAKING_SECONDS_MAX
    assert 10 <= len(contacts(first, 5000)) <= 28


def test_a_fleet_that_starts_without_the_cloud_spreads() -> None:
    """2,000 machines get their power at once. After a minute no second has more than a twentieth of their contacts."""
    seconds = [0] * 700
    for seed in range(2000):
        for at in contacts(FirstAnswer(0, 600, Random(seed)), 0):
            seconds[int(at)] += 1
    assert max(seconds[60:]) < 100
