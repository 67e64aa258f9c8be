"""`cloud.breakwater.issuance.session_limits`: sessions of a node, over a restart and over two replicas."""

from datetime import datetime, timedelta

import pytest

from cloud.breakwater.errors import SessionsTooOften
from cloud.breakwater.issuance.session_limits import SessionLimits
from cloud.contracts.breakwater import SESSIONS_PER_NODE
from tests.cloud.breakwater.support import FABRIC, NODE, START, Clock, Issuer, ask, new_key, opening

HOUR = timedelta(hours=1)


class Records:
    """Times of sessions, in place of the database."""

    def __init__(self) -> None:
        self.times: list[datetime] = []
        self.reads = 0

    async def sessions_of(self, node: str, since: datetime, limit: int) -> list[datetime]:
        self.reads += 1
        return [time for time in self.times if time > since][-limit:]


async def opened(limits: SessionLimits, records: Records, clock: Clock, tries: int) -> int:
    taken = 0
    for _ in range(tries):
        try:
            await limits.require("node")
        except SessionsTooOften:
            continue
        records.times.append(clock())
        taken += 1
    return taken


async def test_neither_a_restart_nor_a_replica_gives_a_node_more() -> None:
    records, clock = Records(), Clock()
    replicas = [SessionLimits(records, clock) for _ in range(2)]
    taken = 0
    for _ in range(5):
        for limits in (*replicas, SessionLimits(records, clock)):
            taken += await opened(limits, records, clock, 40)
    # A replica reads the records again when it has given half of a bucket.
    assert SESSIONS_PER_NODE.burst <= taken <= SESSIONS_PER_NODE.burst * 1.5
    assert await opened(SessionLimits(records, clock), records, clock, 10) == 0
    clock.forward(timedelta(seconds=SESSIONS_PER_NODE.seconds))
    assert await opened(SessionLimits(records, clock), records, clock, 10) <= 1
    clock.forward(HOUR)
    assert await opened(SessionLimits(records, clock), records, clock, 10) == 10


async def test_a_modest_node_costs_one_query() -> None:
    records, clock = Records(), Clock()
    limits = SessionLimits(records, clock)
    for _ in range(50):
        assert await opened(limits, records, clock, 1) == 1
        clock.forward(timedelta(minutes=1))
    assert records.reads == 1


async def test_the_records_of_this_node_are_read(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    for number in range(3):
        await issuer.issuing.issue_session(FABRIC, ask(new_key(), request=f"r{number}", not_after=START + 24 * HOUR))
        issuer.clock.forward(timedelta(minutes=10))
    store = issuer.parts.stores.issuance
    times = await store.sessions_of(NODE, START - HOUR, 10)
    assert times == [START, START + timedelta(minutes=10), START + timedelta(minutes=20)]
    assert await store.sessions_of(NODE, START, 10) == times[1:]
    assert await store.sessions_of(NODE, START - HOUR, 1) == times[2:]
    assert await store.sessions_of("node_other", START - HOUR, 10) == []


async def test_the_refusal_says_when(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    limits = issuer.issuing._session_limits
    limits._buckets.take(NODE, SESSIONS_PER_NODE, START.timestamp(), SESSIONS_PER_NODE.burst)
    with pytest.raises(SessionsTooOften) as caught:
        await issuer.issuing.issue_session(FABRIC, ask(new_key(), not_after=START + 24 * HOUR))
    assert caught.value.wait == timedelta(seconds=SESSIONS_PER_NODE.seconds)
