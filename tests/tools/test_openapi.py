"""`tools.openapi`: the check finds stale copies, invalid documents and missing descriptions."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools import openapi

GOOD: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "T", "version": "1"},
    "tags": [{"name": "things"}],
    "paths": {
        "/a": {
            "get": {
                "operationId": "show_a",
                "summary": "Show",
                "tags": ["things"],
                "security": [],
                "responses": {"200": {"description": "d"}},
            }
        }
    },
    "components": {"schemas": {"A": {"type": "object", "description": "d", "properties": {"x": {"description": "d"}}}}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good document with one member changed. `path` has the keys, separated by spaces; None removes the member."""
    made: dict[str, Any] = json.loads(json.dumps(GOOD))
    *way, last = path.split(" ")
    place = made
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


GET = "paths /a get"


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        (f"{GET} operationId", "ShowA", "not in snake case"),
        (f"{GET} summary", "", "no first line"),
        (f"{GET} tags", ["others"], "a tag is not declared"),
        (f"{GET} security", None, "which callers"),
        (f"{GET} responses", {"404": {"description": "d"}}, "no response for success"),
        (f"{GET} parameters", [{"name": "p", "in": "query"}], "the parameter p has no description"),
        (
            f"{GET} responses",
            {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}},
            "no example of application/json",
        ),
        ("components schemas A description", None, "the struct A has no docstring"),
        ("components schemas A properties x description", None, "the field A.x has no text"),
    ],
)
def test_each_missing_description_is_found(path: str, value: Any, finding: str) -> None:
    assert list(openapi.unclear("n", GOOD)) == []
    (found,) = openapi.unclear("n", changed(path, value))
    assert finding in found


def test_an_invalid_document_is_found() -> None:
    assert openapi.invalid("n", GOOD) == []
    (found,) = openapi.invalid("n", changed(f"{GET} responses 200 description", None))
    assert "description" in found


def test_a_stale_copy_is_named_with_its_first_differences() -> None:
    current = json.dumps(changed(f"{GET} summary", "Another")).encode()
    assert openapi.stale("n.json", current, current) == []
    assert openapi.stale("n.json", None, current) == ["docs/api/n.json: is missing"]
    assert openapi.stale("n.json", b"{", current) == ["docs/api/n.json: is not JSON"]
    first, second = openapi.stale("n.json", json.dumps(GOOD).encode(), current)
    assert first == "docs/api/n.json: differs from the code"
    assert second == '  #/paths/~1a/get/summary: is "Another", the copy has "Show"'
    many = json.dumps({**GOOD, **{str(number): 1 for number in range(9)}}).encode()
    assert openapi.stale("n.json", json.dumps(GOOD).encode(), many)[-1] == "  and 4 more"


@pytest.mark.slow
def test_every_listener_has_a_document() -> None:
    made = openapi.documents()
    assert set(made) == {
        f"{name}.json" for name in ("fabric", "fabric-repository", "breakwater", "breakwater-public", "cascadia")
    }


@pytest.mark.slow
@pytest.mark.long(8)
def test_the_check_fails_until_the_change_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {"good.json": json.dumps(GOOD).encode()}
    assert openapi.main([], tmp_path, lambda: made) == 1
    assert openapi.main(["--write"], tmp_path, lambda: made) == 0
    assert openapi.main([], tmp_path, lambda: made) == 0
    (tmp_path / "docs" / "api" / "ledger.json").write_text("{}")
    made = {"good.json": json.dumps(changed(f"{GET} summary", "Another")).encode()}
    capsys.readouterr()
    assert openapi.main([], tmp_path, lambda: made) == 1
    printed = capsys.readouterr().err
    assert '#/paths/~1a/get/summary: is "Another", the copy has "Show"' in printed
    assert "docs/api/ledger.json: no service has this document" in printed
    assert "python -m tools.openapi --write" in printed
