"""Printing: one JSON document for programs, or columns for people. Both forms have the same values."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec


def emit(value: Any, as_json: bool, human: Callable[[Any], str]) -> None:
    """Print `value`, which is a Struct or plain data: as one line of JSON, or as the text that `human` makes of it."""
    print(json.dumps(msgspec.to_builtins(value)) if as_json else human(value))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return left-aligned columns under upper-case headings. Without rows, return "(none)"."""
    if not rows:
        return "(none)"
    cells = [[str(heading).upper() for heading in headings], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def pairs(rows: Sequence[tuple[str, object]]) -> str:
    """Return one line for each pair: the name, then the value."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {_cell(value)}" for name, value in rows)


def fields(value: msgspec.Struct) -> str:
    """Return one line for each field of a Struct: the field's name with spaces, then its value."""
    return pairs([(name.replace("_", " "), getattr(value, name)) for name in value.__struct_fields__])


def columns(headings: Sequence[str], *names: str) -> Callable[[Iterable[Any]], str]:
    """Return a function that turns items into a table. Each of `names` is a field of the items and gives a column."""
    return lambda items: table(headings, [[getattr(item, name) for name in names] for item in items])


def _cell(value: object) -> str:
    if value is None or value in ("", ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat(timespec="seconds")).replace("+00:00", "Z")
    return str(value)
