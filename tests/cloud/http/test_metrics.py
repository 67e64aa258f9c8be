"""Each service has its registry; metrics are in the text format; requests are timed by the template of their path."""

from litestar import get
from litestar.params import FromPath
from litestar.testing import AsyncTestClient

from cloud.clock import utc_now
from cloud.http.app import make_app, make_metrics_app
from cloud.http.guard import ANONYMOUS, Guard
from cloud.http.metrics import Metrics
from cloud.http.readiness import Readiness
from cloud.mtls.peer import PeerTrust
from protocol.ids import NodeId, TenantId


class OpenChecks:
    """A guard that admits every caller."""

    async def generation_open(self, _tenant: TenantId, _node: NodeId, _generation: int) -> bool:
        return True

    async def service_revoked(self, _serial: int) -> bool:
        return False


def test_two_services_in_one_process_share_nothing() -> None:
    one, other = Metrics("one"), Metrics("one")
    one.counter("things", "Things", "kind").add("a", by=2)
    other.counter("things", "Things", "kind")
    assert one is not other


async def test_the_text_format() -> None:
    metrics = Metrics("test")
    metrics.counter("things", "Things that were", "kind").add("a", by=2)
    metrics.gauge("level", "How high").set(1.5)
    metrics.read("age_seconds", "Asked for", "of", lambda: {"x": 3.0})
    read: list[int] = []

    async def reading() -> None:
        read.append(1)

    metrics.before_reading(reading)
    text = (await metrics.render()).decode()
    assert 'cascade_test_things_total{kind="a"} 2.0' in text
    assert "cascade_test_level 1.5" in text
    assert 'cascade_test_age_seconds{of="x"} 3.0' in text
    assert "# HELP cascade_test_things_total Things that were" in text
    assert read == [1]


@get("/things/{name:str}", opt={"peers": (ANONYMOUS,)})
async def thing(name: FromPath[str]) -> str:
    return name


async def test_requests_are_timed_by_route_and_never_by_path() -> None:
    metrics = Metrics("test")
    guard = Guard(trust=lambda: PeerTrust("cascade.test", (), ()), checks=OpenChecks(), now=utc_now)
    app = make_app([thing], guard, metrics=metrics)
    async with AsyncTestClient(app) as client:
        for name in ("alpha", "beta"):
            assert (await client.get(f"/things/{name}")).status_code == 200
        assert (await client.get("/nothing/secret")).status_code == 404
        assert (await client.get("/metrics")).status_code == 404
    async with AsyncTestClient(make_metrics_app(guard, metrics, Readiness())) as client:
        answer = await client.get("/metrics")
        assert (await client.get("/things/alpha")).status_code == 404
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'cascade_test_request_seconds_count{method="GET",route="/things/{name}",status="200"} 2.0' in answer.text
    assert "alpha" not in answer.text
    assert "secret" not in answer.text


async def test_an_application_without_metrics_has_no_such_route() -> None:
    guard = Guard(trust=lambda: PeerTrust("cascade.test", (), ()), checks=OpenChecks(), now=utc_now)
    async with AsyncTestClient(make_app([thing], guard)) as client:
        assert (await client.get("/metrics")).status_code == 404
