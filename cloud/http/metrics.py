"""Adapter: a service's metrics for Prometheus, and the route that returns them.

Only this module imports the client library. Each service has its own registry, so that two services in one process
share no metric. Nothing is registered at import. Rule: the value of a label comes from a small, fixed set: the template
of a route, a code, a profile, an authority. It is never an id, a request's path, or another value that a caller
chooses. So `/metrics` can admit every caller. It has a listener of its own, because reading it takes CPU time.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import perf_counter

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.enums import ScopeType
from litestar.params import SkipValidation
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cloud.http.admission import PROBES, Admission
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import Binary, operation_options

CONTENT_TYPE = "text/plain; version=0.0.4"  # the framework adds the charset
LATENCY_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histogram's buckets. An issuance takes some milliseconds. Long polls end in the last bucket."""
NO_ROUTE = "(none)"

Values = Callable[[], Mapping[str, float]]
Reading = Callable[[], Awaitable[None]]


class Count:
    """A counter, with a value for each combination of labels."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Add `by` to the value for these labels, in the order in which the labels were declared."""
        (self._counter.labels(*labels) if labels else self._counter).inc(by)


class Level:
    """A gauge: a number that rises and falls."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge

    def set(self, value: float, *labels: str) -> None:
        """Set the value for these labels."""
        (self._gauge.labels(*labels) if labels else self._gauge).set(value)


class _Read(Collector):
    """A gauge whose values are read when the metrics are read."""

    def __init__(self, name: str, text: str, label: str, values: Values) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._values = values

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the name only. The values may not be available yet."""
        return [GaugeMetricFamily(self._name, self._text, labels=[self._label])]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for label, value in self._values().items():
            family.add_metric([label], value)
        return [family]


class Metrics:
    """The metrics of one service. Names begin with `cascade_SERVICE_`."""

    def __init__(self, service: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._prefix = f"cascade_{service}_"
        self._readings: list[Reading] = []
        self._latency = Histogram(
            f"{self._prefix}request_seconds",
            "Time from a request's head to its answer's last byte",
            ("method", "route", "status"),
            registry=self._registry,
            buckets=LATENCY_SECONDS,
        )

    def counter(self, name: str, text: str, *labels: str) -> Count:
        """Make a counter. `_total` is appended to its name."""
        return Count(Counter(self._prefix + name, text, labels, registry=self._registry))

    def gauge(self, name: str, text: str, *labels: str) -> Level:
        """Make a gauge."""
        return Level(Gauge(self._prefix + name, text, labels, registry=self._registry))

    def read(self, name: str, text: str, label: str, values: Values) -> None:
        """Make a gauge that calls `values` (label value -> number) whenever the metrics are read."""
        self._registry.register(_Read(self._prefix + name, text, label, values))

    def before_reading(self, reading: Reading) -> None:
        """Await `reading` whenever the metrics are read, for numbers that need a query."""
        self._readings.append(reading)

    def count_refusals(self, admission: Admission) -> None:
        """Count the requests that a limit refuses. The labels are names of buckets and kinds of callers."""
        labels = ("bucket", "caller", "limit")
        admission.on_refusal = self.counter("refused_by_limit", "Requests that a limit by caller refused", *labels).add

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record an answered request. `route` is the template of its path."""
        self._latency.labels(method, route, str(status)).observe(seconds)

    async def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        for reading in self._readings:
            await reading()
        return generate_latest(self._registry)


def measured(metrics: Metrics) -> Callable[[ASGIApp], ASGIApp]:
    """Make a middleware for Litestar that measures the time of requests, by the template of their path."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def timed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            started, status = perf_counter(), 500

            async def note(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, note)
            finally:
                taken = perf_counter() - started
                metrics.observe(scope["method"], scope.get("path_template") or NO_ROUTE, status, taken)

        return timed

    return wrap


@get(
    "/metrics",
    opt=operation_options(
        ANONYMOUS, bucket=PROBES, answers=Binary(CONTENT_TYPE, "The metrics in Prometheus' text format.")
    ),
)
async def read_metrics(service_metrics: NamedDependency[SkipValidation[Metrics]]) -> Response[bytes]:
    """Read the metrics of the service, for Prometheus.

    Labels have no ids and no values that a caller chooses.
    """
    return Response(await service_metrics.render(), media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
