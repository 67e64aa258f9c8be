"""The feed of revoked services: `cloud.breakwater.revocation.feed`, its route, and Fabric's set at the other end of it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cloud.breakwater.bootstrap import initialise
from cloud.breakwater.revocation.feed import POLL_SECONDS, RevocationFeed
from cloud.breakwater.store.issuance import serial_text
from cloud.clock import utc_now
from cloud.contracts.breakwater import PATH_REVOCATIONS, Revocations, RevokedSerial
from cloud.crypto.keyfile import write_secret
from cloud.mtls.client import ProblemAnswer
from cloud.mtls.revoked import RevokedSet
from cloud.storage import Location, ServiceEngine
from cloud.tasks.stopping import Stopping
from lab.postgres import database_location
from protocol.limits import EVENT_WAIT_SECONDS_MAX
from tests.cloud.breakwater.live import live_at
from tests.cloud.breakwater.revoking import Bench, Clock, Hierarchy, bench_at
from tests.cloud.breakwater.support import PASSPHRASE, plan_for
from tests.cloud.engines import ENGINES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    return Hierarchy(Clock().at)


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


@pytest.fixture
async def bench(location: Location, hierarchy: Hierarchy) -> AsyncIterator[Bench]:
    async with bench_at(location, hierarchy, Clock()) as made:
        yield made


@pytest.fixture(scope="module")
def live_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An issuer of today, since its listener has the machine's clock."""
    directory = tmp_path_factory.mktemp("live")
    write_secret(directory / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(directory), utc_now))
    return directory


def names(answer: Revocations) -> list[str]:
    return [entry.serial for entry in answer.entries]


async def revoked_service(bench: Bench) -> x509.Certificate:
    certificate = await bench.issue("services-1")
    await bench.revoke(certificate.serial_number, 1)
    return certificate


async def test_a_page_and_where_to_go_on(bench: Bench) -> None:
    first, second = await revoked_service(bench), await revoked_service(bench)
    everything = await bench.feed.after(0, 0)
    assert names(everything) == [serial_text(each.serial_number) for each in (first, second)]
    assert [(entry.feed, entry.reason, entry.not_after) for entry in everything.entries] == [
        (1, 1, first.not_valid_after_utc),
        (2, 1, second.not_valid_after_utc),
    ]
    assert everything.cursor == 2
    assert names(await bench.feed.after(1, 0)) == [serial_text(second.serial_number)]
    assert await bench.feed.after(2, 0) == Revocations(2, ())


async def test_nodes_and_what_has_expired_are_not_in_it(bench: Bench) -> None:
    node = await bench.issue()
    await bench.revoke(node.serial_number)
    await revoked_service(bench)
    bench.clock.forward(timedelta(days=8))
    late = await revoked_service(bench)
    assert names(await bench.feed.after(0, 0)) == [serial_text(late.serial_number)]


async def test_a_poll_is_woken_by_another_process(bench: Bench, location: Location) -> None:
    stopping = Stopping()
    task = asyncio.create_task(bench.feed.run(stopping))
    poll = asyncio.create_task(bench.feed.after(0, 30))
    await asyncio.sleep(POLL_SECONDS / 2)
    elsewhere = ServiceEngine("breakwater")
    elsewhere.configure(location)
    await elsewhere.open()
    try:
        begun = asyncio.get_running_loop().time()
        certificate = await revoked_service(Bench(elsewhere, bench.hierarchy, bench.clock))
        async with asyncio.timeout(5):
            answer = await poll
        assert asyncio.get_running_loop().time() - begun < 1
        assert names(answer) == [serial_text(certificate.serial_number)]
    finally:
        stopping.request()
        await task
        await elsewhere.close()


async def test_a_poll_ends_with_its_time_and_with_the_process(bench: Bench) -> None:
    assert await bench.feed.after(0, 0.01) == Revocations(0, ())
    stopping = Stopping()
    task = asyncio.create_task(bench.feed.run(stopping))
    poll = asyncio.create_task(bench.feed.after(5, 30))
    await asyncio.sleep(0.02)
    stopping.request()
    async with asyncio.timeout(1):
        await task
        assert await poll == Revocations(5, ())
        assert await bench.feed.after(5, 30) == Revocations(5, ())


async def test_whoever_follows_is_told_at_once_which_ca_breakwater_has_its_certificate_of(bench: Bench) -> None:
    feed = RevocationFeed(bench.revocations, bench.clock)
    feed.report_issuer("one")
    async with asyncio.timeout(5):
        assert await feed.after(0, 30, "") == Revocations(0, (), "one")
    assert await feed.after(0, 0.01, "one") == Revocations(0, (), "one")
    poll, other = (asyncio.create_task(feed.after(0, 30, known)) for known in ("one", None))
    await asyncio.sleep(0.02)
    feed.report_issuer("two")
    async with asyncio.timeout(5):
        assert await poll == Revocations(0, (), "two")
    await asyncio.sleep(0.02)
    assert not other.done()
    other.cancel()


async def test_a_wake_is_heard_at_once(bench: Bench) -> None:
    feed = RevocationFeed(bench.revocations, bench.clock)
    stopping = Stopping()
    task = asyncio.create_task(feed.run(stopping))
    poll = asyncio.create_task(feed.after(0, 30))
    await revoked_service(bench)
    feed.wake()
    async with asyncio.timeout(1):
        assert (await poll).cursor == 1
    stopping.request()
    await task


class Disk:
    """What a service keeps."""

    def __init__(self) -> None:
        self.entries: dict[str, RevokedSerial] = {}

    async def load(self) -> Iterable[RevokedSerial]:
        return self.entries.values()

    async def save(self, entries: Sequence[RevokedSerial]) -> None:
        # The feed may tell an entry again.
        self.entries.update({entry.serial: entry for entry in entries})

    async def forget(self, now: datetime) -> None:
        self.entries = {serial: entry for serial, entry in self.entries.items() if entry.not_after > now}


async def test_the_route_and_the_set_at_the_other_end(live_home: Path) -> None:
    disk = Disk()
    follower = RevokedSet(load=disk.load, save=disk.save, forget=disk.forget, now=utc_now, entropy=bytes)
    async with live_at(live_home) as live, live.fabric() as client:
        start = (await client.call("GET", f"{PATH_REVOCATIONS}?cursor=0&wait=0")).into(Revocations)
        stopping = Stopping()
        tasks = [
            asyncio.create_task(live.running.parts.feed.run(stopping)),
            asyncio.create_task(follower.follow(lambda: client, stopping)),
        ]
        identity = x509.load_pem_x509_certificate((live_home / "breakwater" / "tls" / "chain.pem").read_bytes())
        assert identity.serial_number not in follower
        begun = asyncio.get_running_loop().time()
        await live.running.parts.service_certificates.revoke("test", identity.serial_number, "keyCompromise")
        for _ in range(400):
            if identity.serial_number in follower:
                break
            await asyncio.sleep(0.005)
        assert identity.serial_number in follower
        assert asyncio.get_running_loop().time() - begun < 1
        assert len(disk.entries) == len(start.entries) + 1
        stopping.request()
        async with asyncio.timeout(1):
            await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "query", ["cursor=-1", "cursor=x", f"cursor={2**63}", "wait=-1", f"wait={EVENT_WAIT_SECONDS_MAX + 1}", "wait=1.5"]
)
async def test_a_query_out_of_bounds(live_home: Path, query: str) -> None:
    async with live_at(live_home) as live, live.fabric() as client:
        with pytest.raises(ProblemAnswer) as refused:
            (await client.call("GET", f"{PATH_REVOCATIONS}?{query}")).into(Revocations)
        assert refused.value.problem.code == "invalid"


async def test_nobody_but_services_may_ask(live_home: Path) -> None:
    async with live_at(live_home) as live, live.anonymous() as client:
        with pytest.raises(ProblemAnswer) as refused:
            (await client.call("GET", PATH_REVOCATIONS)).into(Revocations)
        assert refused.value.problem.code == "peer_required"
