"""`cloud.http.admission`: limits by caller, with an injected clock. Full counts of hostile and honest callers."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import cast

import pytest
from litestar import get
from litestar.testing import TestClient

from cloud.breakwater.routes import buckets as breakwater_buckets
from cloud.clock import utc_now
from cloud.fabric.routes import buckets as fabric_buckets
from cloud.http import admission
from cloud.http.admission import PROBES, REFUSALS, SERVICES, Admission, Bucket, Caller
from cloud.http.app import make_app
from cloud.http.guard import ANONYMOUS, OPERATOR, Guard, Operator
from cloud.http.metrics import Metrics
from cloud.http.openapi import operation_options
from cloud.http.problems import Refusal
from cloud.mtls.peer import PeerChecks, PeerTrust
from cloud.tasks.buckets import Rate

THINGS = Bucket(name="things", each=Rate(4, 1.0), tenant=Rate(20, 0.5), whole=Rate(40, 0.25))
HOSTILE, HONEST = "192.0.2.66", "198.51.100.1"
BUCKETS = [
    bucket
    for module in (fabric_buckets, breakwater_buckets, admission)
    for bucket in vars(module).values()
    if isinstance(bucket, Bucket)
]


@get("/open", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def read_open() -> str:
    return "open"


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_stranger_that_floods_stops_neither_another_stranger_nor_a_known_source() -> None:
    clock = Clock()
    it = Admission(clock)
    assert sum(it.take(THINGS, None, HOSTILE) == 0 for _ in range(1000)) == 4
    assert it.take(THINGS, None, HOSTILE) == 1.0
    assert it.take(THINGS, None, HONEST) == 0
    # Hostile strangers from many addresses use up the bucket of all strangers.
    for number in range(200):
        it.take(THINGS, None, f"2001:db8:{number:x}::1")
    assert it.take(THINGS, None, "203.0.113.7") > 0
    it.note_known("203.0.113.7")
    assert it.take(THINGS, None, "203.0.113.7") == 0
    assert it.take(THINGS, Caller("operator", "tok_1")) == 0
    clock.now += 1.0
    assert it.take(THINGS, None, HONEST) == 0


def test_one_ipv6_customer_is_one_stranger() -> None:
    it = Admission(Clock())
    taken = sum(it.take(THINGS, None, f"2001:db8:0:1::{number:x}") == 0 for number in range(100))
    assert taken == 4


@pytest.mark.slow
def test_an_ipv6_site_with_thousands_of_networks_leaves_half_to_other_strangers() -> None:
    it = Admission(Clock())
    assert sum(it.take(THINGS, None, f"2001:db8:0:{number:x}::1") == 0 for number in range(5000)) == 20
    assert sum(it.take(THINGS, None, f"2001:db8:1:{number:x}::1") == 0 for number in range(5)) == 5
    assert it.take(THINGS, None, HONEST) == 0


async def test_refusals_of_an_ipv6_site_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    it, late = Admission(Clock()), []

    async def delayed() -> None:
        late.append(1)

    monkeypatch.setattr(it, "delay", delayed)
    for number in range(1500):
        await it.refused(f"2001:db8:0:{number:x}::1")
    assert len(late) == 500
    await it.refused("2001:db8:1::1")
    await it.refused(HONEST)
    assert len(late) == 500


def test_nodes_of_one_tenant_leave_the_other_tenants_their_share() -> None:
    it = Admission(Clock())
    taken = sum(
        it.take(THINGS, Caller("node", f"node_{number % 50}", "ten_hostile")) == 0 for number in range(50 * 100)
    )
    assert taken == 20
    # A tenant that uses at most half of its bucket finds its places free.
    assert all(it.take(THINGS, Caller("node", f"node_o{number}", "ten_honest")) == 0 for number in range(10))


def test_services_have_no_shared_limit_and_none_on_their_own_routes() -> None:
    it = Admission(Clock())
    assert all(it.take(SERVICES, Caller("service", "fabric")) == 0 for _ in range(1000))
    assert sum(it.take(THINGS, Caller("service", f"s{n}")) == 0 for n in range(200)) == 200


def test_callers_behind_a_load_balancer_share_a_bucket_that_no_other_caller_uses() -> None:
    it = Admission(Clock(), shared_networks=("192.0.2.0/24",))
    assert sum(it.take(THINGS, None, HOSTILE) == 0 for _ in range(100)) == 40
    assert it.take(THINGS, None, HONEST) == 0


def test_all_limits_are_multiplied() -> None:
    clock = Clock()
    it = Admission(clock, factor=2.5)
    assert sum(it.take(THINGS, None, HOSTILE) == 0 for _ in range(100)) == 10
    clock.now += 1.0
    assert sum(it.take(THINGS, None, HOSTILE) == 0 for _ in range(100)) == 2


def test_the_table_of_known_sources_is_bounded() -> None:
    it = Admission(Clock(), keys_max=8)
    for number in range(100):
        it.note_known(f"198.51.100.{number}")
        it.take(THINGS, None, f"198.51.100.{number}")
    assert len(it._known) == 8
    assert len(it._table("things/address")) == 8


async def test_a_refusal_is_late_and_names_the_seconds_to_wait() -> None:
    it = Admission(Clock(), delay_seconds=0.0)
    for _ in range(4):
        await it.check(THINGS, None, HOSTILE)
    with pytest.raises(Refusal) as caught:
        await it.check(THINGS, None, HOSTILE)
    assert caught.value.code == "rate_limited"
    assert caught.value.headers == {
        "Retry-After": "1",
        "RateLimit-Policy": '"things";q=4;w=4',
        "RateLimit": '"things";r=0;t=1',
    }
    with pytest.raises(Refusal, match="no limits"):
        await it.check(None, None, HOSTILE)


async def test_a_caller_sees_what_is_left_of_its_own_limit_and_no_key() -> None:
    clock = Clock()
    it = Admission(clock, shared_networks=("203.0.113.0/24",))

    async def left(caller: Caller | None, host: str = HONEST) -> str:
        quota = await it.check(THINGS, caller, host)
        return quota.headers["RateLimit"] if quota is not None else ""

    alice = Caller("operator", "tok_alice")
    assert [await left(alice) for _ in range(3)] == [f'"things";r={3 - n};t={n + 1}' for n in range(3)]
    clock.now += 1.5
    assert await left(alice) == '"things";r=1;t=3'
    assert await left(Caller("operator", "tok_bob")) == '"things";r=3;t=1'
    assert await left(None) == '"things";r=3;t=1'
    # A caller behind a proxy has no bucket of its own, and a service has no limit on its own routes.
    assert await left(None, "203.0.113.9") == ""
    assert await it.check(SERVICES, Caller("service", "fabric"), HONEST) is None


async def test_late_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "DELAYED_MAX", 3)
    it = Admission(Clock(), delay_seconds=600.0)
    waiting = [asyncio.ensure_future(it.delay()) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as caught:
        await it.delay()
    assert caught.value.headers["Connection"] == "close"
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    it._delay_seconds = 0.0
    await it.delay()


async def test_refusals_without_a_route_are_counted_as_those_of_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Admission(Clock(), delay_seconds=0.0)
    waited: list[str] = []

    async def delayed() -> None:
        waited.append("late")
        if len(waited) > 2:
            raise Refusal("rate_limited")

    monkeypatch.setattr(it, "delay", delayed)
    trust, checks = cast(PeerTrust, None), cast(PeerChecks, None)
    guard = Guard(trust=lambda: trust, checks=checks, now=utc_now, admission=it)
    with TestClient(make_app((read_open,), guard)) as client:
        assert {client.get("/open").status_code for _ in range(60)} == {200}
        assert [client.get("/nothing").status_code for _ in range(40)] == [404] * 40
        assert [client.put("/open").status_code for _ in range(10)] == [405] * 10
        assert waited == []
        late = [client.get("/nothing") for _ in range(3)]
    assert [answer.status_code for answer in late] == [404] * 3
    assert [answer.headers.get("connection") for answer in late] == [None, None, "close"]
    assert waited == ["late"] * 3


async def test_each_limit_that_refuses_is_counted() -> None:
    it = Admission(Clock(), shared_networks=("203.0.113.0/24",), delay_seconds=0.0)
    counted: Counter[tuple[str, str, str]] = Counter()
    it.on_refusal = lambda *labels: counted.update([labels])
    for _ in range(6):
        it.take(THINGS, None, HOSTILE)
    for number in range(45):
        it.take(THINGS, Caller("node", f"node_{number}", f"ten_{number}"))
        it.take(THINGS, None, "203.0.113.1")
    for _ in range(REFUSALS.burst + 2):
        await it.refused(HONEST)
    await it.refused_in_use_case(THINGS, "node")
    await it.refused_in_use_case(SERVICES, "service")
    await it.refused_in_use_case(None, "anonymous")
    assert counted == {
        ("things", "stranger", "own"): 2,
        ("things", "node", "shared"): 5,
        ("things", "shared", "shared"): 5,
        ("refusals", "stranger", "own"): 2,
        ("things", "node", "use case"): 1,
    }


def test_a_limit_in_a_use_case_is_answered_late_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Admission(Clock(), delay_seconds=0.0)
    waited: list[str] = []

    async def delayed() -> None:
        waited.append("late")
        if len(waited) > 3:
            raise Refusal("rate_limited")

    monkeypatch.setattr(it, "delay", delayed)
    trust, checks = cast(PeerTrust, None), cast(PeerChecks, None)
    guard = Guard(trust=lambda: trust, checks=checks, now=utc_now, admission=it)
    metrics = Metrics("it")
    metrics.count_refusals(it)
    with TestClient(make_app((limited_route,), guard)) as client:
        answers = [client.get("/limited") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [429] * 6
    # The first four are refused by the use case, the others by the guard. The waiting room has three places.
    assert [answer.headers["retry-after"] for answer in answers[:4]] == ["7"] * 4
    assert [answer.headers.get("connection") for answer in answers[:4]] == [None, None, None, "close"]
    assert len(waited) == 6
    read = asyncio.run(metrics.render()).decode()
    assert 'cascade_it_refused_by_limit_total{bucket="things",caller="anonymous",limit="use case"} 4.0' in read
    assert 'cascade_it_refused_by_limit_total{bucket="things",caller="stranger",limit="own"} 2.0' in read


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda bucket: bucket.name)
def test_a_caller_has_less_than_its_tenant_and_a_tenant_less_than_all(bucket: Bucket) -> None:
    levels = [rate for rate in (bucket.each, bucket.tenant, bucket.whole) if rate is not None]
    assert (bucket.each is None) == (not levels)
    for lower, upper in pairwise(levels):
        # More than two callers at full speed leave the upper half, and its whole rate, to the others.
        assert upper.burst >= 2 * lower.burst
        assert upper.seconds <= lower.seconds / 2


def test_bucket_names_are_unique() -> None:
    assert len({bucket.name for bucket in BUCKETS}) == len(set(BUCKETS))


HONEST_CALLERS = {
    "a site of 500 machines behind one address activates": (fabric_buckets.ACTIVATION, None, 1000, 60.0),
    "10,000 nodes behind one address open sessions": (fabric_buckets.SESSION, None, 15_000, 90.0),
    "an operator's script reads for a minute": (fabric_buckets.READ, Caller("operator", "tok"), 6_000, 60.0),
    "an operator's script makes 6,000 objects": (fabric_buckets.WRITE, Caller("operator", "tok"), 6_000, 60.0),
    "a node is woken 100 times": (fabric_buckets.NODE, Caller("node", "node", "ten"), 200, 1.0),
    "20 load balancers ask every second": (PROBES, None, 1_200, 60.0),
    "a node renews its certificate": (breakwater_buckets.REENROLMENT, Caller("node", "node", "ten"), 10, 1.0),
    "a client asks OCSP": (breakwater_buckets.OCSP, None, 250, 10.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HONEST_CALLERS)
def test_honest_callers_are_never_refused_while_hostile_ones_are(case: str) -> None:
    bucket, caller, requests, seconds = HONEST_CALLERS[case]
    clock = Clock()
    it = Admission(clock)
    greedy = Caller(caller.kind, "hostile", "ten_hostile") if caller is not None else None
    refused = taken = 0
    for number in range(requests):
        clock.now = 1000.0 + seconds * number / requests
        refused += it.take(bucket, caller, HONEST) > 0
        # The hostile caller takes what there is, and has to wait.
        while number % 100 == 0 and it.take(bucket, greedy, HOSTILE) == 0:
            taken += 1
    assert refused == 0
    assert bucket.each is not None
    assert 0 < taken <= bucket.each.within(seconds)


@get("/open", opt=operation_options(ANONYMOUS, bucket=THINGS))
async def open_route() -> str:
    return "open"


@get("/limited", opt=operation_options(ANONYMOUS, bucket=THINGS))
async def limited_route() -> str:
    raise admission.too_many(7)


@get("/operators", opt=operation_options(OPERATOR, bucket=THINGS))
async def operators_route() -> str:
    return "operators"


@get("/unlimited", opt={"peers": (ANONYMOUS,)})
async def unlimited_route() -> str:
    return "never"


async def _operator_of(token: str) -> Operator | None:
    return Operator(token, token) if token.startswith("tok") else None


def test_the_guard_asks_for_each_caller_and_answers_429() -> None:
    clock = Clock()
    guard = Guard(
        trust=lambda: PeerTrust("cascade.test", (), ()),
        checks=cast(PeerChecks, None),
        now=utc_now,
        operator_of=_operator_of,
        admission=Admission(clock, delay_seconds=0.0),
    )
    with TestClient(make_app([open_route, operators_route, unlimited_route], guard)) as client:
        assert [client.get("/open").status_code for _ in range(6)] == [200] * 4 + [429] * 2
        answer = client.get("/open")
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("rate_limited", "1")
        assert answer.headers["ratelimit"] == f'"{open_route.opt["bucket"].name}";r=0;t=1'
        for token in ("tok_hostile", "tok_honest"):
            headers = {"Authorization": f"Bearer {token}"}
            answers = [client.get("/operators", headers=headers) for _ in range(5)]
            assert [each.status_code for each in answers] == [200] * 4 + [429]
            assert [each.headers["ratelimit"].split(";")[1] for each in answers] == ["r=3", "r=2", "r=1", "r=0", "r=0"]
            assert token not in str([each.headers for each in answers])
        # A wrong token never stops a right one from the same address.
        assert all(
            client.get("/operators", headers={"Authorization": "Bearer x"}).status_code == 401 for _ in range(60)
        )
        assert client.get("/operators", headers={"Authorization": "Bearer tok_other"}).status_code == 200
        clock.now += 1.0
        assert client.get("/open").status_code == 200
        assert client.get("/unlimited").json()["code"] == "peer_refused"
