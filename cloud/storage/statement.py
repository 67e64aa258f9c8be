"""SQL compiled once: the hot path's way round the query builder, which costs five times the query itself.

A statement holds text only, never values. It is written with the query builder's `{}` placeholders and compiled for
both dialects at import, so that a store is the same on SQLite and on PostgreSQL.
"""

from string import Formatter
from typing import Any

Row = dict[str, Any]
"""One row as the driver gives it, column name to typed value; a store turns it into a struct at once."""


def is_read(sql: str) -> bool:
    """True for a plain SELECT. Anything else, a CTE that may write included, counts as a write."""
    return sql.lstrip()[:6].upper() == "SELECT"


class Statement:
    """One SQL statement with `{}` for each value, in order.

    Rule: it must be bounded (by key or by LIMIT), because it runs in the event loop's own thread.
    """

    __slots__ = ("parameter_count", "postgres", "reads", "sqlite")

    def __init__(self, template: str) -> None:
        sqlite: list[str] = []
        postgres: list[str] = []
        count = 0
        for literal, field, spec, conversion in Formatter().parse(template):
            sqlite.append(literal)
            postgres.append(literal)
            if field is None:
                continue
            if field or spec or conversion:
                raise ValueError(f"cannot compile the placeholder {{{field}}}: only {{}} is known")
            count += 1
            sqlite.append("?")
            postgres.append(f"${count}")
        self.sqlite = "".join(sqlite)
        self.postgres = "".join(postgres)
        self.parameter_count = count
        self.reads = is_read(template)

    def sql(self, engine_type: str) -> str:
        """The text in the dialect of `engine_type` ("sqlite" or "postgres")."""
        return self.sqlite if engine_type == "sqlite" else self.postgres
