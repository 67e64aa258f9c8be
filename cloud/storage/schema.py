"""Adapter: the steps of migrations. A step changes the schema with Piccolo's columns, one line for each column.

    STEPS = (
        add_table("node", id=Varchar(length=64, primary_key=True), tenant=Varchar(length=64, index=True)),
        add_column("node", note=Text()),
        add_index("node", "tenant", "note"),
        fill_notes,  # async def fill_notes(engine: ServiceEngine) -> None
    )

A step is an async function of the engine. Piccolo writes its DDL for the dialect of the engine. A migration is frozen:
it imports nothing of its service, and steps that change rows have their own statements.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from piccolo.columns import Column
from piccolo.query.methods.alter import AddColumn
from piccolo.query.methods.create import Create
from piccolo.query.methods.create_index import CreateIndex
from piccolo.table import Table, create_table_class

from cloud.storage.dialect import Dialect
from cloud.storage.engine import ServiceEngine
from cloud.storage.statement import Statement

Step: TypeAlias = Callable[[ServiceEngine], Awaitable[None]]


def add_table(table: str, /, **columns: Column) -> Step:
    """Create a table, with an index for each column that has `index=True`. One column is the primary key.

    Raises ValueError if no column is the primary key.
    """
    if not any(column._meta.primary_key for column in columns.values()):
        raise ValueError(f"cannot add the table {table}: it has no primary key")

    async def step(engine: ServiceEngine) -> None:
        await _run(engine, Create(_picture(engine, table, columns)).ddl)

    return step


def add_column(table: str, /, **columns: Column) -> Step:
    """Add columns to an existing table. Its rows get the default, so a column without a default needs `null=True`."""

    async def step(engine: ServiceEngine) -> None:
        picture = _picture(engine, table, columns)
        for name in columns:
            column = picture._meta.get_column_by_name(name)
            await _run(engine, [f'ALTER TABLE "{table}" {AddColumn(column, name).ddl}'])
            if column._meta.index:
                await _run(engine, CreateIndex(picture, [column]).ddl)

    return step


def drop_column(table: str, column: str) -> Step:
    """Remove a column, and the index that it has of its own, with the values of all rows."""

    async def step(engine: ServiceEngine) -> None:
        await _run(
            engine, [f'DROP INDEX IF EXISTS "{table}_{column}"', f'ALTER TABLE "{table}" DROP COLUMN "{column}"']
        )

    return step


def delete_rows(table: str, column: str, value: str) -> Step:
    """Delete the rows whose column has this text."""
    statement = Statement(f'DELETE FROM "{table}" WHERE "{column}" = {{value}}')  # noqa: S608  (names in the code)

    async def step(engine: ServiceEngine) -> None:
        await engine.fetch(statement, value=value)

    return step


def add_index(table: str, /, *columns: str) -> Step:
    """Add an index over columns of an existing table."""

    async def step(engine: ServiceEngine) -> None:
        await _run(engine, CreateIndex(_picture(engine, table, {}), list(columns)).ddl)

    return step


def _picture(engine: ServiceEngine, table: str, columns: dict[str, Column]) -> type[Table]:
    """Return a Piccolo table with copies of these columns, for DDL in the dialect of the engine."""
    return create_table_class(
        table.title(), class_kwargs={"tablename": table, "db": Dialect(engine.engine_type)}, class_members=dict(columns)
    )


async def _run(engine: ServiceEngine, ddl: Sequence[str]) -> None:
    for sql in ddl:
        await engine.run_ddl(sql)
