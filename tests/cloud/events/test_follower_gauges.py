"""`cloud.events.follower_gauges`: the lag of a follower is in the metrics of its service."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.events import follower_gauges
from cloud.http.metrics import Metrics
from lab.postgres import database_location
from tests.cloud.events.following import Replica, following
from tests.cloud.events.support import Producer, opened


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    (tmp_path / "follower").mkdir()
    locations = [database_location("sqlite", "breakwater", tmp_path / part) for part in ("", "follower")]
    async with opened(locations[0]) as engine, following(locations[1], Producer(engine), is_new=True) as made:
        yield made


async def test_the_metrics_show_position_lag_and_age(replica: Replica) -> None:
    metrics = Metrics("fabric")
    follower_gauges.attach(metrics, [replica.follower])

    async def value(name: str) -> float:
        text = (await metrics.render()).decode()
        (line,) = [
            line for line in text.splitlines() if line.startswith(f'cascade_fabric_{name}{{producer="breakwater"}}')
        ]
        return float(line.split()[-1])

    assert await value("events_followed_answer_age_seconds") == -1
    await replica.steps()
    await replica.wire.producer.add("a", "1")
    await replica.wire.producer.place()
    await replica.steps()
    replica.follower.head = 5
    replica.follower.left_out["version"] += 2
    assert await value("events_followed_position") == 1
    assert await value("events_followed_lag") == 4
    assert await value("events_followed_left_out") == 2
    assert await value("events_followed_snapshots") == 1
    assert 0 <= await value("events_followed_answer_age_seconds") < 60
