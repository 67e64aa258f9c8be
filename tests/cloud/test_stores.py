"""Every statement of every store: both databases accept it, and none reads a whole table that grows."""

import asyncio
import importlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from cloud.storage import Statement
from lab.postgres import postgres_database, sqlite_database

ROOT = Path(__file__).parents[2]
SERVICES = ("breakwater", "fabric")
SMALL = {"authority", "revoked_service", "few"}
"""Tables with few rows, and a subquery with a LIMIT."""
BROWSED = {"checker_reads._COUNT", "checker_reads._TALLY"}
"""Runs with `browse`: the checker counts all records."""


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
            if found and found.group(1) not in SMALL and name not in BROWSED:
                scanned.add((name, step))
    connection.close()
    assert names > 50
    assert not scanned


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
