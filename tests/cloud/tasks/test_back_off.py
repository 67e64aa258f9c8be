"""`cloud.tasks.back_off`: pauses double up to a limit, with and without jitter."""

from collections.abc import Callable

import pytest

from cloud.tasks.back_off import BackOff


def lowest(count: int) -> bytes:
    return bytes(count)


def highest(count: int) -> bytes:
    return b"\xff" * count


def test_the_pause_doubles_up_to_its_bound_and_begins_again_after_a_success() -> None:
    back_off = BackOff(0.5, 3.0)
    assert [back_off.failed(at) for at in (10.0, 20.0, 30.0, 40.0, 50.0)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert (back_off.failed_at, back_off.ready_at) == (50.0, 53.0)
    back_off.worked()
    assert (back_off.failed_at, back_off.ready_at) == (0.0, 0.0)
    assert back_off.failed(60.0) == 0.5


def test_ten_thousand_failures_keep_the_bound() -> None:
    back_off = BackOff(0.5, 3.0)
    assert {back_off.failed(0.0) for _ in range(10_000)} == {0.5, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(("entropy", "pause"), [(lowest, 4.0 / 65536), (highest, 4.0)])
def test_jitter_spreads_over_the_whole_pause(entropy: Callable[[int], bytes], pause: float) -> None:
    back_off = BackOff(4.0, 10.0, entropy)
    assert back_off.failed(1.0) == pause
    assert back_off.ready_at == 1.0 + pause
