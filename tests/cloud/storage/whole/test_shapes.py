"""The tables of a database as values."""

import pytest

from cloud.storage.statement import Row
from cloud.storage.whole.shapes import Column, Shape, catalog, migrations_of, shapes_of


def test_types_of_both_engines_are_the_same_kinds() -> None:
    sqlite = [
        {"table": "a", "name": "x", "type": "VARCHAR(64)"},
        {"table": "a", "name": "y", "type": "BLOB"},
        {"table": "migration", "name": "name", "type": "VARCHAR(64)"},
        {"table": "b", "name": "z", "type": "TIMESTAMPTZ"},
    ]
    postgres = [
        {"table": "a", "name": "x", "type": "character varying"},
        {"table": "a", "name": "y", "type": "bytea"},
        {"table": "b", "name": "z", "type": "timestamp with time zone"},
    ]
    shapes = [Shape("a", (Column("x", "text"), Column("y", "bytes"))), Shape("b", (Column("z", "time"),))]
    assert shapes_of(sqlite) == shapes_of(postgres) == shapes
    assert shapes[0].names == '"x", "y"'


def test_a_type_that_no_table_has_is_refused() -> None:
    with pytest.raises(KeyError):
        shapes_of([{"table": "a", "name": "x", "type": "uuid"}])


async def test_the_catalog_is_asked_in_the_dialect_of_the_engine() -> None:
    asked: list[str] = []

    async def fetch(sql: str) -> list[Row]:
        asked.append(sql)
        return [{"table": "a", "name": "name", "type": "TEXT"}]

    assert await catalog("sqlite", fetch) == await catalog("postgres", fetch) == [Shape("a", (Column("name", "text"),))]
    assert "sqlite_master" in asked[0]
    assert "pg_class" in asked[1]
    assert await migrations_of(fetch) == ["name"]
