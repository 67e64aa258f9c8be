"""Pure functions: map rows to frozen structs and back. A field is the column of its name, or a computed value.

Fields of types that no column has (tuples, maps, structs) are stored as JSON text. The only queries of a mapper are its
inserts; stores compile the others from `select`.
"""

from datetime import datetime
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from piccolo.query.methods.insert import Insert
from piccolo.query.methods.select import Select
from piccolo.querystring import Selectable
from piccolo.table import Table

from cloud.storage.compiled import compiled, params
from cloud.storage.statement import Row, Statement

T = TypeVar("T", bound=msgspec.Struct)

_PLAIN = frozenset({str, int, bool, bytes, datetime, NoneType})


def json_text(value: Any) -> str:
    """Return a value of a type that no column has, as the JSON text that a mapper stores."""
    return msgspec.json.encode(value).decode()


def _is_plain(kind: Any) -> bool:
    """Return True if a column stores values of this type unchanged."""
    while hasattr(kind, "__supertype__"):  # unwraps a NewType
        kind = kind.__supertype__
    if get_origin(kind) in (UnionType, Union):
        return all(_is_plain(part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return all(_is_plain(type(part)) for part in get_args(kind))
    return kind in _PLAIN


class Mapper(Generic[T]):
    """Reads and writes rows of one table as structs of one type. The struct may omit columns that have defaults."""

    def __init__(self, kind: type[T], table: type[Table], **computed: Selectable) -> None:
        """Make a mapper. `computed` has the fields that are not columns, each with the SQL expression of its value.

        Computed fields are read only. Raises ValueError if a field is neither a column of the table nor computed.
        """
        known = {column._meta.name: column for column in table._meta.columns}
        unknown = [name for name in kind.__struct_fields__ if name not in known and name not in computed]
        if unknown:
            raise ValueError(
                f"cannot map {kind.__name__}: the table {table._meta.tablename} has no column {unknown[0]}"
            )
        hints = get_type_hints(kind)
        self._kind = kind
        self._table = table
        self._names = frozenset(kind.__struct_fields__)
        self._columns = [known[name] for name in kind.__struct_fields__ if name not in computed]
        self._selected = [
            computed[name].as_alias(name) if name in computed else known[name] for name in kind.__struct_fields__
        ]
        self._decoders = {
            name: msgspec.json.Decoder(hints[name]) for name in kind.__struct_fields__ if not _is_plain(hints[name])
        }
        self._encoded = tuple(self._decoders)

    def select(self) -> Select[Any]:
        """Return a query of the struct's fields. The store adds conditions and compiles it."""
        return self._table.select(*self._selected)

    def _insert(self) -> Insert[Any]:
        return Insert(table=self._table).add(self._table(params(*self._columns)))

    @cached_property
    def insert(self) -> Statement:
        """Statement that inserts a row. Its parameters are those of `values`."""
        return compiled(self._insert())

    @cached_property
    def insert_new(self) -> Statement:
        """Statement that inserts a row unless its key exists. Its parameters are those of `values`.

        It returns the key of an inserted row, and no row otherwise.
        """
        key = self._table._meta.primary_key
        return compiled(self._insert().on_conflict(target=key, action="DO NOTHING").returning(key))

    def values(self, value: T, statement: Statement | None = None) -> dict[str, Any]:
        """Return the columns of a struct by name: all of them, or those that are parameters of `statement`."""
        values = msgspec.structs.asdict(value)
        if statement is not None:
            for name in self._names - statement.names:
                del values[name]
        for name in self._encoded:
            if name in values:
                values[name] = msgspec.json.encode(values[name]).decode()
        return values

    def read(self, row: Row) -> T:
        """Return the struct of a row.

        Raises:
            msgspec.ValidationError: the row has a value that does not fit the struct's type.
        """
        if self._decoders:
            row = dict(row)
            for name, decoder in self._decoders.items():
                row[name] = decoder.decode(row[name])
        return msgspec.convert(row, self._kind)

    def read_one(self, row: Row | None) -> T | None:
        """Return the struct of a row, or None for None."""
        return None if row is None else self.read(row)
