"""Describes a database, one line for each fact, and compares it with the tables of a `tables.py`."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from piccolo.table import Table

from cloud.storage import Location, ServiceEngine, Statement
from cloud.storage.schema import add_index, add_table

# SQL by hand, because it reads the engines' catalogs.
_SQLITE_COLUMNS = Statement(
    """SELECT t.name AS "table", c.name, c.type, c."notnull" AS is_filled, c.dflt_value AS "default", c.pk AS is_key
    FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"""
)
_SQLITE_INDEXES = Statement(
    """SELECT t.name AS "table", i."unique" AS is_unique,
    (SELECT group_concat(x.name, ', ') FROM pragma_index_info(i.name) x) AS columns
    FROM sqlite_master t, pragma_index_list(t.name) i WHERE t.type = 'table'"""
)
_POSTGRES_COLUMNS = Statement(
    """SELECT c.relname AS "table", a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attnotnull AS is_filled, pg_get_expr(d.adbin, d.adrelid) AS "default",
    EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY(i.indkey)) AS is_key
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace"""
)
_POSTGRES_INDEXES = Statement(
    """SELECT c.relname AS "table", i.indisunique AS is_unique,
    (SELECT string_agg(a.attname, ', ' ORDER BY k.place) FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number) AS columns
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = current_schema()::regnamespace"""
)


async def picture(engine: ServiceEngine) -> set[str]:
    """Return every column with type, NULL, default and key, and every index, without the record of migrations."""
    is_file = engine.engine_type == "sqlite"
    lines: set[str] = set()
    for row in await engine.browse(_SQLITE_COLUMNS if is_file else _POSTGRES_COLUMNS):
        traits = [str(row["type"]).upper(), "NOT NULL" if row["is_filled"] else "NULL", f"DEFAULT {row['default']}"]
        traits += ["PRIMARY KEY"] if row["is_key"] else []
        lines.add(f"{row['table']}.{row['name']}: {', '.join(traits)}")
    for row in await engine.browse(_SQLITE_INDEXES if is_file else _POSTGRES_INDEXES):
        lines.add(f"{row['table']}: {'UNIQUE INDEX' if row['is_unique'] else 'INDEX'} ({row['columns']})")
    return {line for line in lines if not line.startswith("migration")}


def tables_of(module: ModuleType) -> list[type[Table]]:
    """Return the tables that a module defines."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Table) and value is not Table
    ]


async def differences(
    tables: list[type[Table]], empty: Location, migrated: Location, indexes: Iterable[tuple[str, ...]] = ()
) -> list[str]:
    """Return the differences between tables and a migrated database. The tables are made in the database `empty`.

    `indexes` are those over several columns: the table, then the columns.
    """
    expected, found = ServiceEngine("expected"), ServiceEngine("found")
    expected.configure(empty)
    found.configure(migrated)
    await expected.open()
    await found.open()
    try:
        for table in tables:
            columns = {column._meta.name: column for column in table._meta.columns}
            await add_table(table._meta.tablename, **columns)(expected)
        for index in indexes:
            await add_index(*index)(expected)
        wanted, present = await picture(expected), await picture(found)
    finally:
        await expected.close()
        await found.close()
    missing = [f"only in tables.py: {line}" for line in wanted - present]
    return sorted(missing + [f"only in the migrations: {line}" for line in present - wanted])
