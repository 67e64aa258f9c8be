"""Between rows and frozen structs: a struct's fields are the table's columns, in name and order.

Fields that no column type holds (tuples, maps, structs) are JSON text in the database. It builds SQL once, at
import, and knows no query of its own.
"""

from datetime import datetime
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from cloud.storage import Row, Statement

T = TypeVar("T", bound=msgspec.Struct)

_PLAIN = frozenset({str, int, bool, bytes, datetime, NoneType})


def _is_plain(kind: Any) -> bool:
    while hasattr(kind, "__supertype__"):
        kind = kind.__supertype__
    origin = get_origin(kind)
    if origin in (UnionType, Union):
        return all(_is_plain(part) for part in get_args(kind))
    if origin is not None and all(isinstance(part, str) for part in get_args(kind)):
        return True  # Literal of texts
    return kind in _PLAIN


class Mapper(Generic[T]):
    """Reads and writes one table as one struct."""

    def __init__(self, kind: type[T], table: str) -> None:
        self._kind = kind
        self._names = kind.__struct_fields__
        hints = get_type_hints(kind)
        self._json = {name: hints[name] for name in self._names if not _is_plain(hints[name])}
        self._bools = tuple(name for name in self._names if hints[name] is bool)
        self.columns = ", ".join(self._names)
        places = ", ".join("{}" for _ in self._names)
        insert = f"INSERT INTO {table} ({self.columns}) VALUES ({places})"  # noqa: S608  names of the program's own
        self.insert = Statement(insert)
        self.insert_new = Statement(f"{insert} ON CONFLICT (id) DO NOTHING")
        self._table = table

    def select(self, tail: str) -> Statement:
        """`SELECT <columns> FROM <table> <tail>`; `tail` is part of the program, never of a request."""
        return Statement(f"SELECT {self.columns} FROM {self._table} {tail}")  # noqa: S608  no value stands in it

    def args(self, value: T) -> tuple[Any, ...]:
        """The values of `insert`."""
        return tuple(
            msgspec.json.encode(getattr(value, name)).decode() if name in self._json else getattr(value, name)
            for name in self._names
        )

    def read(self, row: Row) -> T:
        """The struct of a row."""
        values = dict(row)
        for name, hint in self._json.items():
            values[name] = msgspec.json.decode(values[name], type=hint)
        for name in self._bools:
            values[name] = bool(values[name])
        return self._kind(**values)

    def read_one(self, row: Row | None) -> T | None:
        """The struct of a row, if there is one."""
        return None if row is None else self.read(row)
