"""Metrics of the followers of a service: how far each has followed its producer. Read at each scrape."""

from collections.abc import Callable, Mapping, Sequence

from cloud.events.follower import Follower
from cloud.http.metrics import Metrics


def attach(metrics: Metrics, followers: Sequence[Follower]) -> None:
    """Register the gauges. Call it once for all followers of a service."""

    def by_producer(value: Callable[[Follower], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {follower.producer: value(follower) for follower in followers}

    metrics.read(
        "events_followed_position",
        "Position up to which this process has heard events",
        "producer",
        by_producer(lambda follower: follower.position),
    )
    metrics.read(
        "events_followed_lag",
        "Events of the producer that this process has not heard yet",
        "producer",
        by_producer(lambda follower: max(0, follower.head - follower.position)),
    )
    metrics.read(
        "events_followed_answer_age_seconds",
        "Time since the last answer of the producer, -1 before the first",
        "producer",
        by_producer(lambda follower: follower.answer_age_seconds),
    )
    metrics.read(
        "events_followed_left_out",
        "Events that this process could not read",
        "producer",
        by_producer(lambda follower: sum(follower.left_out.values())),
    )
    metrics.read(
        "events_followed_snapshots",
        "Snapshots that this process has read",
        "producer",
        by_producer(lambda follower: follower.snapshots),
    )
