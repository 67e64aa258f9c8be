"""Values: SQL statements with named parameters, in the texts of both dialects. A statement holds no values.

`cloud.storage.compiled` makes statements from Piccolo queries. A `Statement` is written by hand only if Piccolo cannot
express the query. A comment beside it then gives the reason.
"""

from collections.abc import Callable
from operator import itemgetter
from string import Formatter
from typing import Any, Literal

EngineType = Literal["sqlite", "postgres"]
Row = dict[str, Any]
"""One row as the driver returns it, column name -> typed value. A store turns it into a struct at once."""


def is_read(sql: str) -> bool:
    """Return True for a plain SELECT. Everything else counts as a write, also a CTE, because it may write."""
    return sql.lstrip()[:6].upper() == "SELECT"


def _picker(order: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return the function that puts values by name into order. It runs for every query, so it must be fast."""
    if len(order) > 1:
        return itemgetter(*order)
    if order:
        (name,) = order
        return lambda values: (values[name],)
    return lambda _: ()


class Statement:
    """One SQL statement with `{name}` for each value. A name may occur several times.

    Rule: a statement for `fetch` is bounded by a key or a LIMIT, because SQLite runs it in the event loop's own thread.
    """

    __slots__ = ("_names_count", "_order", "_pick", "names", "postgres", "reads", "sqlite")

    def __init__(self, template: str) -> None:
        sqlite: list[str] = []
        postgres: list[str] = []
        order: list[str] = []
        for literal, field, spec, conversion in Formatter().parse(template):
            sqlite.append(literal)
            postgres.append(literal)
            if field is None:
                continue
            if spec or conversion or not field.isidentifier():
                raise ValueError(f"cannot compile the placeholder {{{field}}}: it is not a name")
            order.append(field)
            # A name that occurs twice gets two numbers, because PostgreSQL derives the type of each parameter from its
            # place.
            sqlite.append("?")
            postgres.append(f"${len(order)}")
        self.sqlite = "".join(sqlite)
        self.postgres = "".join(postgres)
        self.reads = is_read(template)
        self._order = tuple(order)
        self._pick = _picker(self._order)
        self.names = frozenset(order)
        self._names_count = len(self.names)

    def sql(self, engine_type: EngineType) -> str:
        """Return the text in the dialect of `engine_type`."""
        return self.sqlite if engine_type == "sqlite" else self.postgres

    def arguments(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """Return the values in the order of the placeholders.

        Raises:
            TypeError: a parameter has no value, or a value has no parameter.
        """
        if len(values) == self._names_count:
            try:
                return self._pick(values)
            except KeyError:
                pass
        raise TypeError(
            f"the statement takes the parameters {sorted(self.names)}, not {sorted(values)}: {self.sqlite[:60]}"
        )
