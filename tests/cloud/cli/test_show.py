"""Printing gives the same values as one JSON document or in columns."""

import json
from datetime import UTC, datetime

import msgspec
import pytest

from cloud.cli.show import columns, emit, fields, pairs, table


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
