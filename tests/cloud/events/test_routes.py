"""`cloud.events.routes`: each service reads the other's feed over mutual TLS."""

import asyncio

import pytest

from cloud.contracts.events import PATH_CHANGES, PATH_SNAPSHOT, Changes, SnapshotPage
from cloud.mtls.client import ProblemAnswer
from cloud.tasks.stopping import Stopping
from tests.cloud.breakwater.live import Live
from tests.cloud.events.support import State

pytestmark = pytest.mark.slow


async def test_a_service_follows_the_feed_and_reads_the_snapshot(live: Live) -> None:
    parts, stopping = live.running.parts, Stopping()
    sequencer = asyncio.create_task(parts.events.sequencer.run(stopping))
    async with live.fabric() as client:
        page = (await client.call("GET", PATH_SNAPSHOT)).into(SnapshotPage)
        poll = asyncio.create_task(client.call("GET", f"{PATH_CHANGES}?cursor={page.cursor}&wait=60", seconds=70))
        async with parts.stores.engine.transaction("thing:a"):
            await parts.events.outbox.add("thing", "a", "changed", State("x"))
        changes = (await poll).into(Changes)
        assert [(event.subject, bytes(event.data)) for event in changes.events][-1] == ("thing/a", b'{"value":"x"}')
        again = (await client.call("GET", f"{PATH_CHANGES}?cursor={changes.cursor}")).into(Changes)
        assert (again.events, again.cursor, again.head) == ((), changes.cursor, changes.head)
        latest = (await client.call("GET", f"{PATH_SNAPSHOT}?after=thing&limit=1")).into(SnapshotPage)
        assert [event.subject for event in latest.events] == ["thing/a"]
    stopping.request()
    await sequencer


async def test_bad_queries(live: Live) -> None:
    wanted = {
        f"{PATH_CHANGES}?cursor=fabric.1.1": "cursor_foreign",
        f"{PATH_CHANGES}?cursor=breakwater.1.1": "cursor_gone",
        f"{PATH_CHANGES}?cursor={'1' * 65}": "invalid",
        f"{PATH_CHANGES}?wait=251": "invalid",
        f"{PATH_CHANGES}?wait=-1": "invalid",
        f"{PATH_SNAPSHOT}?limit=0": "invalid",
        f"{PATH_SNAPSHOT}?limit=257": "invalid",
        f"{PATH_SNAPSHOT}?after={'x' * 129}": "invalid",
    }
    found: dict[str, str] = {}
    async with live.fabric() as client:
        for query in wanted:
            with pytest.raises(ProblemAnswer) as caught:
                (await client.call("GET", query)).into(Changes)
            found[query] = caught.value.problem.code
    assert found == wanted
