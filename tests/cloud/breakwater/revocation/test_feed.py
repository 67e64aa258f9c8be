"""`cloud.breakwater.revocation.feed`: pages of revoked service certificates, and long polls for new entries."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cloud.breakwater.revocation.feed import (
    HINTED_POLL_SECONDS,
    POLL_SECONDS,
    RevocationFeed,
    poll_seconds_of,
)
from cloud.breakwater.store.issuance import serial_text
from cloud.contracts.breakwater import Revocations
from cloud.storage import Location, ServiceEngine
from cloud.tasks.stopping import Stopping
from lab.postgres import database_location
from tests.cloud.breakwater.revoking import Bench, Clock, Hierarchy, bench_at
from tests.cloud.engines import ENGINES
from tests.waiting import until, waiters

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


def names(answer: Revocations) -> list[str]:
    return [entry.serial for entry in answer.entries]


async def revoked_service(bench: Bench) -> x509.Certificate:
    certificate = await bench.issue("services-1")
    await bench.revoke(certificate.serial_number, 1)
    return certificate


async def test_a_page_of_the_feed_and_its_cursor(bench: Bench) -> None:
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


async def test_nodes_and_expired_certificates_are_not_in_the_feed(bench: Bench) -> None:
    node = await bench.issue()
    await bench.revoke(node.serial_number)
    await revoked_service(bench)
    bench.clock.forward(timedelta(days=8))
    late = await revoked_service(bench)
    assert names(await bench.feed.after(0, 0)) == [serial_text(late.serial_number)]


async def test_a_poll_is_woken_by_another_process(bench: Bench, location: Location) -> None:
    stopping = Stopping()
    task = asyncio.create_task(bench.feed.run(stopping))
    unread = bench.feed._changed
    await until("the first look at the counter", lambda: bench.feed._changed is not unread)
    poll = asyncio.create_task(bench.feed.after(0, 30))
    await until("the poll", lambda: waiters(bench.feed._changed) == 1)
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


async def test_without_hints_it_looks_more_often(bench: Bench) -> None:
    on_postgres = bench.engine.engine_type == "postgres"
    assert poll_seconds_of(bench.engine) == (HINTED_POLL_SECONDS if on_postgres else POLL_SECONDS)


async def test_a_poll_ends_with_its_time_and_with_the_process(bench: Bench) -> None:
    assert await bench.feed.after(0, 0.01) == Revocations(0, ())
    stopping = Stopping()
    task = asyncio.create_task(bench.feed.run(stopping))
    poll = asyncio.create_task(bench.feed.after(5, 30))
    await until("the poll", lambda: waiters(bench.feed._changed) == 1)
    stopping.request()
    async with asyncio.timeout(1):
        await task
        assert await poll == Revocations(5, ())
        assert await bench.feed.after(5, 30) == Revocations(5, ())


async def test_a_change_of_the_ca_that_breakwater_has_its_certificate_of_ends_a_poll(bench: Bench) -> None:
    feed = RevocationFeed(bench.revocations, bench.clock)
    feed.report_issuer("one")
    async with asyncio.timeout(5):
        assert await feed.after(0, 30, "") == Revocations(0, (), "one")
    assert await feed.after(0, 0.01, "one") == Revocations(0, (), "one")
    poll, other = (asyncio.create_task(feed.after(0, 30, known)) for known in ("one", None))
    await until("the polls", lambda: waiters(feed._changed) == 2)
    feed.report_issuer("two")
    async with asyncio.timeout(5):
        assert await poll == Revocations(0, (), "two")
    await until("the other poll's next wait", lambda: waiters(feed._changed) == 1)
    assert not other.done()
    other.cancel()


async def test_wake_ends_a_poll_at_once(bench: Bench) -> None:
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
