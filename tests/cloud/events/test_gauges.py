"""`cloud.events.gauges`: head, age of the oldest event without a position, purge."""

from datetime import timedelta

from cloud.http.metrics import Metrics
from cloud.storage import Statement
from tests.cloud.events.support import Producer

UNPLACED = Statement("UPDATE event_outbox SET position = NULL WHERE sequence = 2")


async def lines(metrics: Metrics) -> set[str]:
    text = (await metrics.render()).decode()
    return {
        line.removeprefix("cascade_breakwater_") for line in text.splitlines() if "events_" in line and line[0] != "#"
    }


async def test_the_gauges_follow_the_outbox(producer: Producer) -> None:
    metrics = Metrics("breakwater")
    producer.parts.gauges.attach(metrics)
    assert await lines(metrics) == {
        "events_head 0.0",
        "events_waiting_seconds 0.0",
        "events_purged 0.0",
        "events_deleted 0.0",
    }
    for _ in range(2):
        await producer.add("a")
    await producer.parts.change_feed.after("", 0)
    await producer.place()
    producer.clock.forward(timedelta(days=8))
    await producer.parts.retention.run_once()
    assert await lines(metrics) == {
        "events_head 2.0",
        "events_waiting_seconds 0.0",
        "events_purged 2.0",
        "events_deleted 1.0",
    }
    await producer.engine.fetch(UNPLACED)
    producer.clock.forward(timedelta(seconds=3))
    assert "events_waiting_seconds 691203.0" in await lines(metrics)


async def test_without_a_database_the_metrics_are_rendered(producer: Producer) -> None:
    metrics = Metrics("breakwater")
    producer.parts.gauges.attach(metrics)
    await producer.engine.close()
    assert "events_head 0.0" in await lines(metrics)
