"""`cloud.breakwater.event_seeding`: what existed before the events gets its first event, once."""

import asyncio
from contextlib import suppress

import pytest

from cloud.breakwater.event_seeding import EventSeeding
from cloud.contracts.breakwater import CloseGenerations
from cloud.mtls.identity import make_csr
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from protocol.ids import NodeId, make_id
from tests.cloud.breakwater.support import FABRIC, TENANT, Issuer, load, new_key
from tests.waiting import until

SEED_OBJECTS = 50


async def before_the_events(issuer: Issuer) -> dict[str, int]:
    """Objects of each noun, and a database that has no events, as an upgrade finds it."""
    for number in range(2):
        issued = await issuer.issuing.issue_service("fabric", make_csr(new_key()), f"s{number}", FABRIC)
        serial = load(issued.certificate_chain[0]).serial_number
        await issuer.service_certificates.revoke(FABRIC, serial, "keyCompromise")
    for number in range(SEED_OBJECTS + 3):
        node = NodeId(make_id("node", number, bytes(10)))
        await issuer.generations.close_up_to(FABRIC, CloseGenerations(TENANT, node, 2))
    for table in ("event_outbox", "event_object"):
        await issuer.engine.run_ddl(f"DELETE FROM {table}")  # noqa: S608  a constant
    await issuer.engine.run_ddl("DELETE FROM counter WHERE name = 'events_seeded'")
    return {"authority": len(issuer.authorities.rows()), "generations": SEED_OBJECTS + 3, "service_certificate": 2}


async def counts(issuer: Issuer) -> dict[str, int]:
    """Events by noun."""
    await issuer.parts.events.sequencer.run_once()
    found: dict[str, int] = {}
    cursor = ""
    while (answer := await issuer.parts.events.change_feed.after(cursor, 0)).events:
        cursor = answer.cursor
        for event in answer.events:
            noun = event.subject.partition("/")[0]
            found[noun] = found.get(noun, 0) + 1
    return found


async def seeded(issuer: Issuer, replicas: int = 1) -> None:
    """Run the seeding to its end."""
    stopping, store = Stopping(), issuer.parts.stores.events
    tasks = [asyncio.create_task(EventSeeding(store, 0.0).run(stopping)) for _ in range(replicas)]
    await until("the end of the seeding", store.is_seeded)
    stopping.request()
    await asyncio.gather(*tasks)


async def test_every_object_gets_one_event(issuer: Issuer) -> None:
    wanted = await before_the_events(issuer)
    await seeded(issuer, replicas=2)
    assert await counts(issuer) == wanted
    await seeded(issuer)
    assert await counts(issuer) == wanted


async def test_it_goes_on_after_a_failure_and_leaves_out_what_has_an_event(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.breakwater.event_seeding.RETRY_SECONDS", 0.01)
    wanted = await before_the_events(issuer)
    store, calls = issuer.parts.stores.events, 0
    step = store.seed_generations

    async def fails_once(after: str) -> str:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StorageError("away")
        return await step(after)

    monkeypatch.setattr(store, "seed_generations", fails_once)
    await seeded(issuer)
    assert calls > 3
    assert await counts(issuer) == wanted


async def test_it_stops_between_two_steps(issuer: Issuer) -> None:
    await before_the_events(issuer)
    stopping = Stopping()
    task = asyncio.create_task(EventSeeding(issuer.parts.stores.events, 3600.0).run(stopping))
    await until("the first step", lambda: counts(issuer))
    stopping.request()
    with suppress(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task
    assert not await issuer.parts.stores.events.is_seeded()
