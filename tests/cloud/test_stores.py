"""Every statement of every store: both databases accept it, and none reads a whole table that grows."""

import asyncio
import contextlib
import importlib
import re
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import asyncpg
import pytest

from cloud.fabric.store.adoption import AdoptionStore
from cloud.fabric.store.audit import AuditStore
from cloud.fabric.store.events.facts import Facts, NoOutbox
from cloud.fabric.store.nodes import NodeStore
from cloud.storage import ServiceEngine, Statement
from lab.postgres import postgres_database, sqlite_database

ROOT = Path(__file__).parents[2]
SERVICES = ("breakwater", "fabric")
SMALL = {"authority", "revoked_service", "few"}
"""Tables with few rows, and a subquery with a LIMIT."""
BROWSED = {"checker_reads._COUNT", "checker_reads._TALLY"}
"""Runs with `browse`: the checker counts all records."""
RESTORED = {"restored._END", "tokens._REVOKE_ALL"}
"""Changes every row, once in each restore, before a service runs."""


def statements(service: str) -> Iterator[tuple[str, Statement]]:
    """Return the statements of a service's stores, by module and name."""
    for path in sorted((ROOT / "cloud" / service / "store").glob("*.py")):
        module = importlib.import_module(f"cloud.{service}.store.{path.stem}")
        yield from (
            (f"{path.stem}.{name}", value) for name, value in vars(module).items() if isinstance(value, Statement)
        )


@pytest.mark.parametrize("service", SERVICES)
def test_sqlite_takes_every_statement_and_finds_rows_by_an_index(service: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(sqlite_database(service, tmp_path))
    scanned = set()
    names = 0
    for name, statement in statements(service):
        names += 1
        nulls = statement.arguments(dict.fromkeys(statement.names))
        for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement.sqlite}", nulls):
            found = re.fullmatch(r"SCAN (\w+)", step)
            if found and found.group(1) not in SMALL and name not in BROWSED | RESTORED:
                scanned.add((name, step))
    connection.close()
    assert names > 50
    assert not scanned


def test_revoked_nodes_whose_seat_is_free_are_not_read(tmp_path: Path) -> None:
    """The background work asks every few seconds, and revoked nodes stay in the table."""
    statement = dict(statements("fabric"))["nodes._SEATS_DUE"]
    with contextlib.closing(sqlite3.connect(sqlite_database("fabric", tmp_path))) as connection:
        nulls = statement.arguments(dict.fromkeys(statement.names))
        plan = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement.sqlite}", nulls)]
    assert plan == ["SEARCH node USING INDEX node_standing_seat_held_id (standing=? AND seat_held=?)"]


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_postgresql_takes_every_statement(service: str) -> None:
    """PostgreSQL derives the type of each parameter from its place."""
    location = postgres_database(service)

    async def prepare() -> None:
        connection = await asyncpg.connect(host=location.host, user=location.user, database=location.name)
        try:
            for name, statement in statements(service):
                try:
                    await connection.prepare(statement.postgres)
                except asyncpg.PostgresError as error:
                    error.add_note(name)
                    raise
        finally:
            await connection.close()

    asyncio.run(prepare())


class Browsed:
    """An engine that runs statements with `browse` only, beside the event loop. Each table is empty."""

    async def browse(self, statement: Statement, **_: object) -> list[dict[str, object]]:
        return [{"last": None}] if " AS last " in statement.sqlite else []


async def test_lists_that_may_read_a_whole_table_run_beside_the_event_loop() -> None:
    """A filter of an operator that no row matches once stopped all requests while 600,000 rows were read."""
    engine = cast(ServiceEngine, Browsed())
    nodes = NodeStore(engine, Facts(NoOutbox()))
    assert await AuditStore(engine).page("", "", "no.such_action", "aud_8", 10) == []
    assert await nodes.page("ten_1", "revoked", "", 10) == []
    assert await nodes.seats_due(datetime.now(UTC), 10) == []
    adoption = AdoptionStore(engine)
    assert [each async for each in adoption.counts()] == []
    assert await adoption.behind(1, "", 10) == await adoption.of_issuer("00", "", 10) == []
