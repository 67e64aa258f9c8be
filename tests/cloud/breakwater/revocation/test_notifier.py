"""`cloud.breakwater.revocation.notifier`: a revocation is counted and wakes the CRL publisher, here and elsewhere."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cloud.events.doorbell import Doorbell
from cloud.storage import Location
from cloud.tasks.stopping import Stopping
from lab.postgres import postgres_copy
from tests.cloud.breakwater.support import FABRIC, Clock, Issuer, closing, issuer_at
from tests.waiting import until


async def test_it_counts_and_wakes(issuer: Issuer) -> None:
    parts = issuer.parts
    assert not parts.crl_publisher._woken.is_set()
    await issuer.generations.close_up_to(FABRIC, closing())
    assert parts.crl_publisher._woken.is_set()
    text = (await parts.metrics.registry.render()).decode()
    assert 'cascade_breakwater_revoked_total{kind="generation",reason="superseded"} 1.0' in text


async def test_without_a_new_revocation_nothing_is_woken(issuer: Issuer) -> None:
    assert await issuer.service_certificates.revoke_all(FABRIC, "ledger", "superseded") == ()
    assert not issuer.parts.crl_publisher._woken.is_set()


@pytest.fixture
def shared_database(home: Path) -> Location:
    """A database that several processes use."""
    return postgres_copy("breakwater", home / "breakwater" / "database.sqlite")


@pytest.mark.slow
async def test_a_revocation_by_another_process_wakes_the_publisher(home: Path, shared_database: Location) -> None:
    """A replica sends its hint at once, and a command when it ends."""
    stopping = Stopping()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        serving, replica, command = [
            await stack.enter_async_context(issuer_at(home, shared_database, Clock())) for _ in range(3)
        ]
        for issuer in (serving, replica):
            doorbell = Doorbell(issuer.engine, issuer.clock)
            issuer.parts.revoked.listen(doorbell)
            tasks.create_task(doorbell.run(stopping))
        woken = serving.parts.crl_publisher._woken
        await until("both connections", lambda: woken.is_set() and replica.parts.crl_publisher._woken.is_set())
        for process, service in ((replica, "fabric"), (command, "breakwater")):
            woken.clear()
            assert await process.service_certificates.revoke_all(FABRIC, service, "superseded")
            if process is command:
                await process.engine.close()
            await until("the hint", woken.is_set)
        stopping.request()
