"""`cloud.events.store.outbox`: statements of the outbox that no use case reaches alone, and their plans."""

import sqlite3
from contextlib import closing
from pathlib import Path

from cloud.events.store import outbox
from cloud.storage import Statement
from lab.postgres import sqlite_database
from tests.cloud.events.support import SERVICE, START, Producer


def test_every_statement_finds_its_rows_by_an_index(tmp_path: Path) -> None:
    """The outbox has a week of events, and the objects are as many as nodes."""
    statements = {name: value for name, value in vars(outbox).items() if isinstance(value, Statement)}
    with closing(sqlite3.connect(sqlite_database(SERVICE, tmp_path))) as connection:
        for name, statement in statements.items():
            nulls = statement.arguments(dict.fromkeys(statement.names))
            plan = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement.sqlite}", nulls)]
            tables = ("SCAN event_outbox", "SCAN event_object", "SCAN old", "SCAN newer")
            assert not [step for step in plan if step.startswith(tables)], name
    assert len(statements) > 10


async def test_before_the_first_event_nothing_is_purged_and_nothing_waits(producer: Producer) -> None:
    store = producer.store
    assert await store.state() is None
    assert await store.purge(START, 10) == 0
    assert not await store.is_older(START)
    assert not await store.is_waiting()
    assert await store.waiting_since() is None
    assert await store.head() == 0


async def test_the_epoch_of_a_database_begins_once(producer: Producer) -> None:
    await producer.store.begin(5)
    await producer.store.begin(6)
    assert await producer.store.state() == outbox.OutboxState(5, 0)
    await producer.store.set_epoch(7)
    assert await producer.store.state() == outbox.OutboxState(7, 0)
