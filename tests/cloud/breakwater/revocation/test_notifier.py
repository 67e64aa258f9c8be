"""`cloud.breakwater.revocation.notifier`: a revocation is counted and wakes the CRL publisher and the feed."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography import x509

from cloud.breakwater.revocation import feed
from cloud.events.doorbell import Doorbell
from cloud.mtls.identity import make_csr
from cloud.storage import Location
from cloud.tasks.stopping import Stopping
from lab.postgres import postgres_copy
from tests.cloud.breakwater.support import FABRIC, Clock, Issuer, closing, issuer_at, load, new_key
from tests.waiting import until, waiters


async def test_it_counts_and_wakes(issuer: Issuer) -> None:
    parts = issuer.parts
    for woken in (parts.crl_publisher._woken, parts.feed._woken):
        assert not woken.is_set()
    await issuer.generations.close_up_to(FABRIC, closing())
    for woken in (parts.crl_publisher._woken, parts.feed._woken):
        assert woken.is_set()
    text = (await parts.metrics.registry.render()).decode()
    assert 'cascade_breakwater_revoked_total{kind="generation",reason="superseded"} 1.0' in text


async def test_without_a_new_revocation_nothing_is_woken(issuer: Issuer) -> None:
    assert await issuer.service_certificates.revoke_all(FABRIC, "ledger", "superseded") == ()
    assert not issuer.parts.feed._woken.is_set()


async def service_certificate(issuer: Issuer, request: str) -> x509.Certificate:
    issued = await issuer.issuing.issue_service("fabric", make_csr(new_key()), request, FABRIC)
    return load(issued.certificate_chain[0])


@pytest.fixture
def shared_database(home: Path) -> Location:
    """A database that several processes use."""
    return postgres_copy("breakwater", home / "breakwater" / "database.sqlite")


@pytest.mark.slow
async def test_a_revocation_by_another_process_wakes_the_feed_at_once(
    home: Path, shared_database: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica sends its hint at once, and a command when it ends. The queries of the feed are too rare to help."""
    monkeypatch.setattr(feed, "HINTED_POLL_SECONDS", 3600.0)
    stopping = Stopping()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        serving, replica = [
            await stack.enter_async_context(issuer_at(home, shared_database, Clock())) for _ in range(2)
        ]
        for issuer in (serving, replica):
            doorbell = Doorbell(issuer.engine, issuer.clock)
            issuer.parts.revoked.listen(doorbell)
            tasks.create_task(doorbell.run(stopping))
        await until("both connections", lambda: all(each.parts.feed._woken.is_set() for each in (serving, replica)))
        tasks.create_task(serving.parts.feed.run(stopping))

        async def told_of(certificate: x509.Certificate, cursor: int, process: Issuer) -> None:
            poll = asyncio.create_task(serving.parts.feed.after(cursor, 60))
            await until("the poll", lambda: waiters(serving.parts.feed._changed) == 1)
            await process.service_certificates.revoke(FABRIC, certificate.serial_number, "keyCompromise")
            if process is not replica:
                await process.engine.close()
            async with asyncio.timeout(10):
                (entry,) = (await poll).entries
            assert int(entry.serial, 16) == certificate.serial_number

        first, second = [await service_certificate(serving, name) for name in ("one", "two")]
        await told_of(first, 0, replica)
        command = await stack.enter_async_context(issuer_at(home, shared_database, Clock()))
        await told_of(second, 1, command)
        stopping.request()
