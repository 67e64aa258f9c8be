"""Printing gives the same values as one JSON document or in columns."""

import ast
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cloud.cli import show
from cloud.cli.show import columns, complain, emit, fields, pairs, say, say_json, table


class Thing(msgspec.Struct, frozen=True):
    id: str
    made_at: datetime | None
    names: tuple[str, ...] = ()
    held: bool = False


ONE = Thing("t1", datetime(2026, 11, 22, 12, 0, 0, 5, UTC), ("a", "b"), held=True)
TWO = Thing("t22", None)


def test_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ONE, True, fields)
    assert json.loads(capsys.readouterr().out)["names"] == ["a", "b"]
    emit(ONE, False, fields)
    assert capsys.readouterr().out == ("id       t1\nmade at  2026-11-22T12:00:00Z\nnames    a,b\nheld     yes\n")


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert columns(("id", "made", "held"), "id", "made_at", "held")((ONE, TWO)) == (
        "ID   MADE                  HELD\nt1   2026-11-22T12:00:00Z  yes\nt22  -                     no"
    )
    assert columns(("id",), "id")(()) == table(("id",), ()) == "(none)"


def test_nothing_is_a_dash() -> None:
    assert pairs([("none", None), ("text", ""), ("list", ()), ("zero", 0)]) == "none  -\ntext  -\nlist  -\nzero  0"


NASTY = "CN=\x1b]0;owned\x07\x1b[2J\u202e\x9b\x7f\nforged: line"


def test_values_from_outside_reach_no_terminal_unescaped(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal acts on nothing, and no value makes a line of its own."""
    thing = Thing(NASTY, None, (NASTY,))
    emit(thing, False, fields)
    emit((thing,), False, columns(("id", "names"), "id", "names"))
    emit({"one": [thing]}, False, lambda value: str(value["one"][0].id))
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert not any(line.startswith("forged") for line in printed.split("\n"))
    assert "CN=\\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b\\x7f\\x0aforged: line" in printed


def test_json_has_the_exact_values_in_printable_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    emit(Thing(NASTY, None), True, fields)
    say_json({NASTY: "\ud800"})
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert json.loads(lines[0])["id"] == NASTY
    assert json.loads(lines[1]) == {NASTY: "\ud800"}


def test_messages_keep_their_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    say(NASTY)
    complain(NASTY)
    printed = capsys.readouterr()
    assert printed.out == printed.err
    assert all(line.isprintable() for line in printed.out.split("\n"))


WAYS_OUT = {"print", "input", "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "os.write"}


def test_no_other_module_of_the_command_prints() -> None:
    """`cascade` prints through `cloud.cli.show`, so a new command escapes what it prints."""
    allowed = {
        "main.py": {"sys.stderr"},  # closes the stream of a reader that has gone
        "show.py": {"print", "sys.stderr"},
    }
    folder = Path(show.__file__).parent
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            used = ""
            if isinstance(node, ast.Name) and node.id in {"print", "input"}:
                used = node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = f"{node.value.id}.{node.attr}"
            if used in WAYS_OUT:
                found.setdefault(str(path.relative_to(folder)), set()).add(used)
    assert found == allowed
