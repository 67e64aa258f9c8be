"""The length of long polls, on a simulated way to the cloud that cuts idle connections."""

from random import Random

import pytest

from node.exchanges.poll_length import SHORTEST_SECONDS, PollLength
from protocol.limits import EVENT_WAIT_SECONDS_MAX


def polls(length: PollLength, cut_after: float, count: int) -> list[tuple[int, bool]]:
    """Length and fate (was cut) of polls over a way that cuts an exchange without bytes after `cut_after` seconds."""
    made = []
    for _ in range(count):
        asked = length.next_seconds()
        cut = asked >= cut_after
        if cut:
            assert length.cut(cut_after)
        else:
            length.whole()
        made.append((asked, cut))
    return made


def test_the_first_poll_is_below_the_common_limits() -> None:
    assert all(44 <= PollLength(Random(seed)).next_seconds() <= 55 for seed in range(100))


def test_the_cloud_may_set_a_shorter_poll() -> None:
    length = PollLength(Random(1))
    for _ in range(60):
        length.whole()
    assert all(24 <= length.next_seconds(30) <= 30 for _ in range(100))
    assert length.next_seconds() > 150, "the way still allows the long poll"


@pytest.mark.parametrize("seed", range(5))
def test_on_a_good_way_polls_become_as_long_as_the_cloud_allows(seed: int) -> None:
    made = polls(PollLength(Random(seed)), 10_000, 60)
    assert not any(cut for _, cut in made)
    lengths = [asked for asked, _ in made[10:]]
    assert 200 <= min(lengths) <= max(lengths) <= EVENT_WAIT_SECONDS_MAX
    assert len(set(lengths)) > 10


@pytest.mark.parametrize("cut_after", [10, 15, 30, 60, 90, 120, 200])
@pytest.mark.parametrize("seed", range(3))
def test_polls_stay_below_the_limit_of_the_way_and_near_it(cut_after: float, seed: int) -> None:
    made = polls(PollLength(Random(seed)), cut_after, 400)
    later = made[100:]
    assert sum(cut for _, cut in later) <= 0.06 * len(later)
    assert sum(asked for asked, _ in later) / len(later) > 0.4 * cut_after


def test_the_length_follows_a_way_that_becomes_better() -> None:
    length = PollLength(Random(1))
    polls(length, 30, 50)
    assert max(asked for asked, _ in polls(length, 10_000, 600)[-20:]) > 200


def test_an_outage_teaches_nothing() -> None:
    length = PollLength(Random(1))
    for _ in range(100):
        assert not length.cut(0.01)
    assert length.next_seconds() >= 44


def test_a_poll_has_a_shortest_length() -> None:
    length = PollLength(Random(1))
    for _ in range(50):
        assert length.cut(5.0)
    assert length.next_seconds() >= SHORTEST_SECONDS * 0.8 - 1
