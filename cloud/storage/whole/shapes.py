"""Port: the tables of a database as values, and a snapshot of all of them. The same on both engines."""

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import groupby
from typing import Any, Literal, Protocol

import msgspec

from cloud.storage.statement import EngineType, Row

Kind = Literal["text", "integer", "boolean", "bytes", "time"]
"""The type of a column, the same on both engines."""
ROWS_AT_ONCE = 200
"""Rows that are read together. A row has at most some hundred kB (a CRL), usually less than 10 kB."""
MIGRATIONS = "migration"
"""The table of the migrations that ran. It is part of the schema, not of the data."""

_KINDS: dict[str, Kind] = {
    "VARCHAR": "text",
    "CHARACTER VARYING": "text",
    "TEXT": "text",
    "INTEGER": "integer",
    "BIGINT": "integer",
    "BOOLEAN": "boolean",
    "BLOB": "bytes",
    "BYTEA": "bytes",
    "TIMESTAMPTZ": "time",
    "TIMESTAMP WITH TIME ZONE": "time",
}
# SQL by hand, because the catalogs are not tables of ours.
_SQLITE_COLUMNS = """SELECT t.name AS "table", c.name AS name, c.type AS type
    FROM sqlite_master t, pragma_table_info(t.name) c
    WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' ORDER BY 1, c.cid"""
_POSTGRES_COLUMNS = """SELECT c.relname::text AS "table", a.attname::text AS name,
    format_type(a.atttypid, NULL) AS type
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace ORDER BY 1, a.attnum"""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A column: its name and its type."""

    name: str
    kind: Kind


class Shape(msgspec.Struct, frozen=True):
    """A table: its name and its columns in order."""

    table: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> str:
        """The names of the columns for SQL, quoted."""
        return ", ".join(f'"{column.name}"' for column in self.columns)

    def select(self, where: str = "") -> str:
        """Return the query of all rows, or of those that meet a condition in SQL."""
        query = f'SELECT {self.names} FROM "{self.table}"'  # noqa: S608  (the catalog's names)
        return f"{query} WHERE {where}" if where else query


class Snapshot(Protocol):
    """Port: all tables of a database at one moment."""

    async def run(self, sql: str) -> list[Row]:
        """Run a query of few rows that both engines understand. Raises StorageError."""

    async def shapes(self) -> list[Shape]:
        """Return the tables by name, without the table of the migrations. Raises StorageError."""

    async def migrations(self) -> list[str]:
        """Return the ids of the migrations that the database has, in order. Raises StorageError."""

    def rows(self, shape: Shape, where: str = "") -> AsyncIterator[list[tuple[Any, ...]]]:
        """Iterate over the rows of a table, `ROWS_AT_ONCE` at a time, in no order.

        `where` is a condition in SQL that both engines understand, a constant of the code. Empty means all rows. Raises
        StorageError.
        """


def shapes_of(found: list[Row]) -> list[Shape]:
    """Return the tables that the catalog of a database lists. Raises KeyError for a type that no table of ours has."""
    shapes = []
    for table, columns in groupby(found, key=lambda row: str(row["table"])):
        kinds = ((str(row["name"]), str(row["type"]).upper().partition("(")[0]) for row in columns)
        shapes.append(Shape(table, tuple(Column(name, _KINDS[kind]) for name, kind in kinds)))
    return [shape for shape in shapes if shape.table != MIGRATIONS]


async def catalog(engine_type: EngineType, fetch: Callable[[str], Awaitable[list[Row]]]) -> list[Shape]:
    """Return the tables of a database by name, without the table of the migrations. `fetch` runs a query on it."""
    return shapes_of(await fetch(_SQLITE_COLUMNS if engine_type == "sqlite" else _POSTGRES_COLUMNS))


async def migrations_of(fetch: Callable[[str], Awaitable[list[Row]]]) -> list[str]:
    """Return the ids of the migrations that a database has, in order. `fetch` runs a query on it."""
    return [str(row["name"]) for row in await fetch(f"SELECT name FROM {MIGRATIONS} ORDER BY name")]  # noqa: S608  (a constant)
