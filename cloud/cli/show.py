"""Printing: one JSON document, or columns for people. The same values either way."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec


def emit(value: Any, as_json: bool, human: Callable[[Any], str]) -> None:
    """Print `value` (a Struct or plain data) as JSON, or as `human` says it."""
    print(json.dumps(msgspec.to_builtins(value)) if as_json else human(value))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns; an empty table says so."""
    if not rows:
        return "(none)"
    cells = [[str(heading).upper() for heading in headings], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def pairs(rows: Sequence[tuple[str, object]]) -> str:
    """Name and value a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {_cell(value)}" for name, value in rows)


def fields(value: msgspec.Struct) -> str:
    """A Struct's fields by their names, one a line."""
    return pairs([(name.replace("_", " "), getattr(value, name)) for name in value.__struct_fields__])


def columns(headings: Sequence[str], *names: str) -> Callable[[Iterable[Any]], str]:
    """A function that prints items in columns, one for each of their fields `names`."""
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
