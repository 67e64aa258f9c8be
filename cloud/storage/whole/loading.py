"""Adapter: fill an empty database from a backup. The database is marked from its first table to its last row.

The mark is the table `restoring`. While it is there, no service uses the database (`cloud.storage.migrate`), and a
repeat of the restore empties the database and begins again. A database that has tables and no mark is refused and never
changed.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from piccolo.columns import Varchar

from cloud.storage.engine import ServiceEngine
from cloud.storage.errors import DatabaseInUse
from cloud.storage.location import Location
from cloud.storage.migrate import RESTORING, is_restoring, migrate_on, migrate_to
from cloud.storage.schema import add_table
from cloud.storage.statement import Row, Statement
from cloud.storage.whole.shapes import Shape, catalog

PARAMETERS_MAX = 30_000
"""Parameters of one statement. PostgreSQL takes 32767, SQLite 32766."""

_MARK = add_table(RESTORING, backup=Varchar(length=64, primary_key=True))
# SQL by hand, because the catalogs are not tables of ours.
_TABLES = {
    "sqlite": Statement(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    ),
    "postgres": Statement("SELECT tablename AS name FROM pg_tables WHERE schemaname = current_schema() ORDER BY name"),
}
_NUMBERED = Statement(
    """SELECT found."table", found."column", found.sequence FROM (
        SELECT c.relname::text AS "table", a.attname::text AS "column",
            pg_get_serial_sequence(quote_ident(c.relname), a.attname) AS sequence
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
    ) AS found WHERE found.sequence IS NOT NULL"""
)


@asynccontextmanager
async def opened_for_loading(service: str, location: Location) -> AsyncIterator[ServiceEngine]:
    """Open the engine of a database that is empty or marked. Raises StorageError."""
    engine = ServiceEngine(f"restore_{service}")
    engine.configure(location, patient=True)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def check_empty(service: str, location: Location) -> None:
    """Check that a database has no tables, or is marked. Makes no file.

    Raises:
        DatabaseInUse: the database has tables and no mark.
        StorageError: the database cannot be used.
    """
    if isinstance(location, Path) and not location.exists():
        return
    async with opened_for_loading(service, location) as engine:
        await _refuse_used(engine, location)


async def _refuse_used(engine: ServiceEngine, location: Location) -> list[str]:
    tables = [str(row["name"]) for row in await engine.fetch(_TABLES[engine.engine_type])]
    if tables and not await is_restoring(engine):
        raise DatabaseInUse(f"cannot restore into {location}: the database has tables already")
    return tables


async def begin_loading(service: str, location: Location, ids: Sequence[str], engine: ServiceEngine) -> list[Shape]:
    """Empty a marked database, mark it, and make the schema of the migrations `ids`. Return its tables.

    It is one transaction. Raises DatabaseInUse, MigrationFailed, StorageError.
    """
    async with engine.transaction():
        for table in await _refuse_used(engine, location):
            await engine.run_ddl(f'DROP TABLE "{table}"')
        await _MARK(engine)
        await migrate_to(service, ids, engine)
    return [shape for shape in await shapes_in(engine) if shape.table != RESTORING]


async def shapes_in(engine: ServiceEngine) -> list[Shape]:
    """Return the tables of an open database."""

    async def fetch(sql: str) -> list[Row]:
        return await engine.fetch(Statement(sql))

    return await catalog(engine.engine_type, fetch)


async def load(engine: ServiceEngine, shape: Shape, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of one table, in one transaction. Raises IntegrityError, StorageError."""
    at_once = max(1, PARAMETERS_MAX // len(shape.columns))
    async with engine.transaction() as transaction:
        for start in range(0, len(rows), at_once):
            page = rows[start : start + at_once]
            values = tuple(value for row in page for value in row)
            await transaction.run(_insert(engine, shape, len(page)), values)


def _insert(engine: ServiceEngine, shape: Shape, count: int) -> str:
    """Return the INSERT of `count` rows. The names come from the catalog of the database."""
    width = len(shape.columns)
    if engine.engine_type == "sqlite":
        places = ", ".join([f"({', '.join(['?'] * width)})"] * count)
    else:
        numbers = iter(range(1, width * count + 1))
        places = ", ".join(f"({', '.join(f'${next(numbers)}' for _ in range(width))})" for _ in range(count))
    return f'INSERT INTO "{shape.table}" ({shape.names}) VALUES {places}'  # noqa: S608  (the catalog's names)


async def continue_numbers(engine: ServiceEngine) -> None:
    """Let columns that number their rows continue after the highest loaded number. SQLite does so by itself."""
    if engine.engine_type == "sqlite":
        return
    for row in await engine.fetch(_NUMBERED):
        # The names come from the catalog of the database.
        highest = f'(SELECT COALESCE(MAX("{row["column"]}"), 0) + 1 FROM "{row["table"]}")'  # noqa: S608
        await engine.fetch(Statement(f"SELECT setval({{sequence}}, {highest}, false)"), sequence=row["sequence"])


async def end_loading(service: str, location: Location, engine: ServiceEngine) -> list[str]:
    """Run the migrations that the backup did not have, in one transaction. Return their ids. The mark stays.

    Numbers that the database gives to rows continue.

    Raises MigrationFailed, StorageError.
    """
    async with engine.transaction():
        await continue_numbers(engine)
        return await migrate_on(service, location, engine)


async def unmark(engine: ServiceEngine) -> None:
    """Remove the mark: services may use the database. A repeat has no effect. Raises StorageError."""
    if await is_restoring(engine):
        async with engine.transaction():
            await engine.run_ddl(f"DROP TABLE {RESTORING}")
