"""Hints between two engines of one service: after the commit, in order, and again after a lost connection."""

import asyncio

import pytest

from cloud.storage import PostgresLocation, ServiceEngine, Statement, TransactionMisuse
from cloud.storage.engine import HINT_CHARS_MAX
from cloud.storage.hints import WAITING_MAX, Outbox
from cloud.tasks.stopping import Stopping
from lab.postgres import postgres_database
from tests.cloud.storage_sample.support import ENGINE, SERVICE, on
from tests.waiting import until


@pytest.fixture
def database() -> PostgresLocation:
    return postgres_database(SERVICE)


@pytest.mark.slow
def test_a_hint_is_taken_by_every_process_after_its_commit(database: PostgresLocation) -> None:
    other, stopping = ServiceEngine(ENGINE.service), Stopping()
    took: list[str] = []
    ends = Statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE {pattern}")

    async def connected() -> None:
        took.append("connected")

    async def sender() -> None:
        pass

    async def test() -> None:
        other.configure(database)
        await other.open()
        listening = asyncio.create_task(other.listen(took.append, connected, stopping))
        sending = asyncio.create_task(ENGINE.listen(lambda _: None, sender, stopping))
        await until("the connection", lambda: took == ["connected"])
        with pytest.raises(LookupError):
            async with ENGINE.transaction("a"):
                ENGINE.hint("never sent")
                raise LookupError
        async with ENGINE.transaction("a"):
            ENGINE.hint("one")
        ENGINE.hint("two")
        await until("the hints", lambda: took == ["connected", "one", "two"])
        await ENGINE.fetch(ends, pattern="LISTEN%")
        await until("the next connection", lambda: took[3:] == ["connected"])
        ENGINE.hint("three")
        await until("the hint", lambda: took[4:] == ["three"])
        leaving = ServiceEngine(ENGINE.service)
        leaving.configure(database)
        await leaving.open()
        leaving.hint("four")
        await leaving.close()
        await until("the hint of a process that stops", lambda: took[5:] == ["four"])
        stopping.request()
        await asyncio.gather(listening, sending)
        await other.close()

    on(database, test())


class Broken:
    """A connection whose server goes away while a hint is sent. Meanwhile the process commits again."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.sent: list[str] = []

    async def execute(self, _sql: str, _channel: str, texts: list[str], *, timeout: float) -> None:
        self.sent += texts
        for number in range(WAITING_MAX - 2):
            self._outbox.add(f"later {number}")
        raise ConnectionError


async def test_hints_whose_server_goes_away_wait_again_in_their_order() -> None:
    outbox = Outbox()
    broken = Broken(outbox)
    for text in ("one", "two", "three"):
        outbox.add(text)
    with pytest.raises(ConnectionError):
        await outbox.send(broken, "channel")
    assert broken.sent == ["one", "two", "three"]
    with pytest.raises(ConnectionError):
        await outbox.send(broken, "channel")
    assert broken.sent[3:6] == ["two", "three", "later 0"]
    assert not outbox.is_empty


@pytest.mark.slow
def test_a_hint_is_bounded(database: PostgresLocation) -> None:
    async def test() -> None:
        with pytest.raises(TransactionMisuse, match="4000 characters"):
            ENGINE.hint("n" * (HINT_CHARS_MAX + 1))
        ENGINE.hint("n" * HINT_CHARS_MAX)

    on(database, test())
