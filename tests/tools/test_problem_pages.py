"""`tools.problem_pages`: the pages are those of the code, and a missing, changed or left-over page is found."""

import json
from pathlib import Path

import pytest

from cloud.http.catalogue import TEXTS, Text
from protocol.openapi import Json
from protocol.problems import CONTENT_TYPE, KINDS
from tools import problem_pages
from tools.problem_pages import DOCUMENTS, FOLDER, OPERATIONS_SHOWN_MAX, REPOSITORY, Operation, operations, page

POST = Operation("fabric", "POST", "/v1/nodes", frozenset({"operators"}))


def answer(*codes: str) -> Json:
    return {"content": {CONTENT_TYPE: {"examples": {code: {} for code in codes}}}}


DOCUMENT: Json = {
    "paths": {
        "/v1/nodes": {
            "post": {
                "security": [{"operator": []}],
                "responses": {
                    "200": {"content": {"application/json": {}}},
                    "404": {"$ref": "#/components/responses/not_found"},
                    "422": answer("invalid", "trust_refused"),
                },
            }
        },
        "/v1/anyone": {"get": {"security": [{}], "responses": {"422": answer("invalid")}}},
    },
    "components": {"responses": {"not_found": answer("not_found")}},
}
ANYONE = Operation("fabric", "GET", "/v1/anyone", frozenset({"callers that need no certificate and no token"}))


def test_the_operations_of_a_code_are_those_of_the_documents() -> None:
    assert operations({"fabric": DOCUMENT}) == {
        "not_found": [POST],
        "invalid": [ANYONE, POST],
        "trust_refused": [POST],
    }


def test_a_page_says_what_the_code_means_and_where_it_comes_from() -> None:
    kind = KINDS["seats_exhausted"]
    made = page(kind, Text("No seat.", elsewhere="The moon."), [POST], on_machines=True)
    for part in (
        "# `seats_exhausted`\n\n**403: No seat of this code is free**\n\nNo seat.\n",
        "## Who gets it\n\nOperators.\n",
        kind.next,
        "gets the same answer until the cause is gone.",
        "../troubleshooting.md#refusals-of-the-cloud",
        "- `POST /v1/nodes` of [fabric](../api/fabric.json)\n\nThe moon.\n",
    ):
        assert part in made
    temporary = page(KINDS["unavailable"], Text("Down."), [POST] * (OPERATIONS_SHOWN_MAX + 1), on_machines=False)
    assert f"More than {OPERATIONS_SHOWN_MAX} operations of [fabric](../api/fabric.json)." in temporary
    assert "A repeat may succeed later" in temporary
    assert "troubleshooting" not in temporary


def test_the_pages_of_the_repository_are_current_and_none_is_left_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert problem_pages.main([]) == 0, capsys.readouterr().err
    assert {path.stem for path in (REPOSITORY / FOLDER).iterdir()} == {*KINDS, "README"}


def repository(path: Path, *, documents: Json | None = None) -> Path:
    """A repository with the API documents of this one, or with others, and no pages yet."""
    (path / "docs/api").mkdir(parents=True)
    for name in DOCUMENTS:
        stored = (REPOSITORY / f"docs/api/{name}.json").read_text("utf-8")
        (path / f"docs/api/{name}.json").write_text(json.dumps(documents) if documents else stored, "utf-8")
    (path / "docs/troubleshooting.md").write_text("# Page\n\n## Refusals of the cloud\n\n| `code_refused` | a | b |\n")
    return path


def test_the_check_fails_until_the_change_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = repository(tmp_path)
    assert problem_pages.main([], root) == 1
    assert problem_pages.main(["--write"], root) == 0
    assert problem_pages.main([], root) == 0
    (root / FOLDER / "invalid.md").write_text("# Another\n")
    (root / FOLDER / "not_found.md").unlink()
    (root / FOLDER / "former.md").write_text("# Former\n")
    capsys.readouterr()
    assert problem_pages.main([], root) == 1
    assert capsys.readouterr().err.splitlines() == [
        "docs/problems/not_found.md: differs from the code",
        "docs/problems/invalid.md: differs from the code",
        "Record the change with `python -m tools.problem_pages --write`.",
        "docs/problems/former.md: no code has this page: remove it",
    ]


def test_a_code_needs_a_text_and_an_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = repository(tmp_path, documents=DOCUMENT)
    assert problem_pages.main([], root) == 1
    assert "unsupported_media_type: no operation answers with it" in capsys.readouterr().err
    monkeypatch.setattr(problem_pages, "TEXTS", {code: text for code, text in TEXTS.items() if code != "malformed"})
    assert problem_pages.main([], root) == 1
    assert "malformed has no text: add one to cloud/http/catalogue.py" in capsys.readouterr().err
