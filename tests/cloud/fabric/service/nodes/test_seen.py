"""`cloud.fabric.service.nodes.seen`: the values of sessions are stored together, and none is lost."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import cast

from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.store.nodes import NodeStore, Seen

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def shown(version: str) -> Seen:
    return Seen(NOW, {}, version, NOW + timedelta(days=1))


class Nodes:
    """The only query of the store that is used."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, str]] = []
        self.transactions = 0
        self.meanwhile: Callable[[], object] = int

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self.transactions += 1
        yield

    async def set_seen(self, key: str, seen: Seen) -> None:
        self.stored.append((key, seen.agent_version))
        self.meanwhile()


async def test_the_last_session_of_each_generation_is_stored_in_one_transaction() -> None:
    nodes = Nodes()
    seen = SeenSessions(transaction=nodes.transaction, nodes=cast(NodeStore, nodes))
    await seen.store()
    assert nodes.transactions == 0
    for key, version in (("one.1", "1.0"), ("two.1", "1.0"), ("one.1", "1.1")):
        seen.note(key, shown(version))
    assert len(seen) == 2
    await seen.store()
    assert (nodes.transactions, nodes.stored, len(seen)) == (1, [("one.1", "1.1"), ("two.1", "1.0")], 0)


async def test_values_that_arrive_during_a_store_wait_for_the_next_one() -> None:
    nodes = Nodes()
    seen = SeenSessions(transaction=nodes.transaction, nodes=cast(NodeStore, nodes))
    seen.note("one.1", shown("1.0"))
    nodes.meanwhile = lambda: seen.note("one.1", shown("1.1"))
    await seen.store()
    assert len(seen) == 1
    nodes.meanwhile = int
    await seen.store()
    assert nodes.stored == [("one.1", "1.0"), ("one.1", "1.1")]
