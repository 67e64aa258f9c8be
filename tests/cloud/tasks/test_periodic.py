"""`cloud.tasks.periodic`: work is repeated, also after a failure."""

import logging

import pytest

from cloud.tasks.periodic import every
from cloud.tasks.stopping import Stopping


class Turns(Stopping):
    """Sleeps that end at once, for a given number of times."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    async def sleep(self, seconds: float) -> bool:
        assert seconds == 7.0
        self._left -= 1
        return self._left < 0


class Away(Exception):
    """A temporary failure."""


async def test_the_work_outlives_the_failures_that_it_names(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)
        if len(done) == 1:
            raise Away("no answer")
        if len(done) == 2:
            raise OSError("no disk")

    task = every(7.0, "sweep", work, outlives=(Away, OSError))
    assert getattr(task, "__name__", "") == "sweep"
    with caplog.at_level(logging.ERROR):
        await task(Turns(4))
    assert len(done) == 4
    assert [(record.message, record.work, record.error) for record in caplog.records] == [  # type: ignore[attr-defined]  # `extra`
        ("background work failed", "sweep", "no answer"),
        ("background work failed", "sweep", "no disk"),
    ]


async def test_another_failure_ends_the_task() -> None:
    async def work() -> None:
        raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="a fault of ours"):
        await every(7.0, "sweep", work, outlives=(Away,))(Turns(4))


async def test_the_task_ends_with_the_process() -> None:
    async def work() -> None:
        raise AssertionError

    stopping = Stopping()
    stopping.request()
    await every(7.0, "sweep", work)(stopping)
