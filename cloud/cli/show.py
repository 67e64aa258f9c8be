"""Printing: everything that `cascade` prints. One JSON document for programs, or columns for people.

Both forms have the same values. Values come from outside: from servers, certificates, files and other operators. So
this module is the only one of `cascade` that prints, and it prints no character that a terminal acts on.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from protocol.text import escaped, escaped_lines


def emit(value: Any, as_json: bool, human: Callable[[Any], str]) -> None:
    """Print `value`, which is a Struct or plain data: as one line of JSON, or as the text that `human` makes of it.

    `human` gets a copy of the value with every text escaped, so a line break in a value makes no line of the output.
    """
    if as_json:
        say_json(msgspec.to_builtins(value))
    else:
        say(human(_escaped(value)))


def say(text: str) -> None:
    """Print lines to stdout, without characters that a terminal acts on."""
    print(escaped_lines(text))


def say_json(value: Any) -> None:
    """Print plain data as one line of JSON in ASCII."""
    print(json.dumps(value).replace("\x7f", "\\u007f"))  # JSON does not escape this control character


def complain(text: str) -> None:
    """Print lines to stderr, without characters that a terminal acts on."""
    print(escaped_lines(text), file=sys.stderr)


def is_watched(*, as_json: bool) -> bool:
    """Whether a person sees the progress of a command: stderr is a terminal, and the output is not for a program."""
    return sys.stderr.isatty() and not as_json


def progress(text: str, *, last: bool) -> None:
    """Write a line to stderr over the line before. `last` ends the line."""
    print(f"\r{escaped(text)}", end="\n" if last else "", file=sys.stderr)


class EscapedRecords(logging.Formatter):
    """Formats a record as `logging` does by default, with its traceback, and escapes each line."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped_lines(super().format(record))


def escape_log_records() -> None:
    """Escape the records that `logging` prints to stderr when a command has configured no handler."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(EscapedRecords())


def _escaped(value: Any) -> Any:
    """Return a copy of a value with every text in it escaped, at any depth."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(
            value, **{name: _escaped(getattr(value, name)) for name in value.__struct_fields__}
        )
    if isinstance(value, dict):
        return {_escaped(name): _escaped(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_escaped(each) for each in value)
    return value


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
        cells = [_cell(item) for item in value]
        return (", " if any(" " in cell for cell in cells) else ",").join(cells)
    if isinstance(value, msgspec.Struct):
        return _cell(msgspec.to_builtins(value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_cell(each)}" for name, each in value.items() if each not in (None, {}, ""))
    if hasattr(value, "isoformat"):
        return str(value.isoformat(timespec="seconds")).replace("+00:00", "Z")
    return str(value)
