"""Pure functions: turn Piccolo queries into statements. The query builder runs at import, and checks names.

    _FIND = compiled(Node.select().where(Node.id == param("node")))
    rows = await engine.fetch(_FIND, node=node)

A store names each value with `param`. Constants of a query become literals of the SQL. Building a query takes several
times as long as running it, so no query is built while a service runs.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from piccolo.columns import Column
from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable
from piccolo.query.base import Query
from piccolo.query.methods.insert import Insert
from piccolo.query.methods.select import Select
from piccolo.querystring import QueryString
from piccolo.table import Table

from cloud.storage.dialect import UNBOUND
from cloud.storage.statement import Statement

Part: TypeAlias = Query[Any, Any] | Combinable | Column | QueryString


class _Marker:
    """Marks the place of a parameter in the arguments of a querystring. Piccolo passes it through unchanged."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def param(name: str) -> QueryString:
    """Return a parameter for any place where Piccolo takes a value. `fetch` takes its value under this name.

    Piccolo adds numbers to a column, but not parameters: write `param("n") + Table.column`. Raises ValueError if `name`
    is not an identifier.
    """
    if not name.isidentifier():
        raise ValueError(f"cannot name a parameter {name!r}")
    return QueryString("{}", _Marker(name))


def params(*columns: Column) -> dict[Any, Any]:
    """Return column -> parameter of the column's name, for `Table.update(...)`."""
    return {column: param(column._meta.name) for column in columns}


def literal(value: str | int | bool) -> QueryString:
    """Return a constant of the query.

    Use it where Piccolo would cast a bare value (`When`, `Case`) or misread it (`is_open == True`).
    """
    return QueryString("{}", value)


def excluded(column: Column) -> QueryString:
    """Return the value that the new row would have had, for ON CONFLICT DO UPDATE."""
    return QueryString(f'EXCLUDED."{column._meta.db_column_name}"')


def sql(template: str, *parts: Part) -> QueryString:
    """Return SQL written by hand, with `{}` for queries, conditions, columns and parameters.

    For statements of which Piccolo can make only the parts.
    """
    return QueryString(template, *(_querystring(part) for part in parts))


def insert_into(table: type[Table], constants: Mapping[Column, Any] | None = None) -> Insert[Any]:
    """Return an INSERT of one row. Each column without a constant has a parameter of its name.

    Piccolo's own `Table.insert` returns the key of the row. This function returns nothing unless `.returning(...)` is
    added, because RETURNING makes an insert on SQLite a third slower.
    """
    return Insert(table=table).add(table(_row(table, constants)))


def insert_if(table: type[Table], condition: Combinable, constants: Mapping[Column, Any] | None = None) -> QueryString:
    """Return an INSERT of one row, in one statement, that inserts only if the condition holds.

    Piccolo cannot express it. Add ON CONFLICT or RETURNING with `sql`.
    """
    row = _row(table, constants)
    return QueryString(
        f"INSERT INTO {table._meta.get_formatted_tablename()} ({{}}) SELECT {{}} WHERE {{}}",
        QueryString(", ".join(f'"{column._meta.db_column_name}"' for column in row)),
        QueryString(", ".join("{}" for _ in row), *row.values()),
        condition.querystring,
    )


def _row(table: type[Table], constants: Mapping[Column, Any] | None) -> dict[Any, Any]:
    return {**params(*table.all_columns()), **(constants or {})}


def exists(query: Select[Any]) -> WhereRaw:
    """Return a condition that is true if the subquery finds a row. The subquery may name columns of the outer query."""
    return WhereRaw("EXISTS ({})", _querystring(query))


def missing(query: Select[Any]) -> WhereRaw:
    """Return a condition that is true if the subquery finds no row."""
    return WhereRaw("NOT EXISTS ({})", _querystring(query))


def value_of(query: Select[Any]) -> QueryString:
    """Return the single value that the subquery selects."""
    return sql("({})", query)


def filtered(column: Column) -> Combinable:
    """Return a condition for an optional filter: the parameter of the column's name is empty, or equals the column.

    The comparison with the empty text is SQL by hand, because Piccolo compares columns only.
    """
    value = param(column._meta.name)
    return WhereRaw("{} = ''", value) | (column == value)


def compiled(query: Query[Any, Any] | QueryString, *, limit: QueryString | None = None) -> Statement:
    """Return the statement of a query. `limit` is a parameter for LIMIT; Piccolo's own `limit()` takes numbers only.

    Raises:
        ValueError: a constant has a type without a literal that both dialects share (bytes, times); make it a
            parameter.
        UpdateError, DeletionError: no condition and no `force=True`.
    """
    querystring = _querystring(query)
    if limit is not None:
        querystring = QueryString("{} LIMIT {}", querystring, limit)
    _, fragments, arguments = querystring.bundle(start_index=1, bundled=[], combined_args=[])
    values = iter(arguments)
    parts: list[str] = []
    for fragment in fragments:
        parts.append(_escaped(fragment.prefix))
        if not fragment.no_arg:
            parts.append(_placeholder(next(values)))
    return Statement("".join(parts))


def _querystring(part: Part) -> QueryString:
    if isinstance(part, QueryString):
        return part
    if isinstance(part, Column):
        return part.get_where_string(UNBOUND.engine_type)
    if isinstance(part, Query):
        part._validate()  # type: ignore[no-untyped-call]  # Piccolo's own check of a query before it runs
        (querystring,) = part.querystrings
        return querystring
    return part.querystring


def _placeholder(value: object) -> str:
    """Return the placeholder of a parameter, or the literal of a constant."""
    if isinstance(value, _Marker):
        return f"{{{value.name}}}"
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(int(value))
    # Servers with different settings read a backslash differently, so a text with a backslash is refused.
    if isinstance(value, str) and not set("\0\\") & set(value):
        quoted = value.replace("'", "''")
        return _escaped(f"'{quoted}'")
    raise ValueError(f"cannot write a constant of {type(value).__name__} into a statement: make it a parameter")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
