"""`tools.docs`: the check of the pages, on a repository of a few files."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from tools import docs

README = """# Shop

## What is enforced

| Claim | Test |
|---|---|
| Goods are counted | `tests/shop/test_goods.py` |
| Goods are sold once | `tests/shop/test_goods.py::test_sale` |

## Where to go on

[The manual](docs/manual.md#the-till)
"""
MANUAL = "# Manual\n\n## The `till`\n\nText.\n"
TESTS = "def test_sale() -> None:\n    assert True\n"


def shop() -> ArgumentParser:
    made = ArgumentParser()
    made.add_argument("--json", action="store_true")
    return made


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for path, text in {
        "README.md": README,
        "Makefile": "unit:\n\t@run $(PART)\n",
        "docs/manual.md": MANUAL,
        "cloud/shop/app.py": "",
        "tests/shop/test_goods.py": TESTS,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def said(repository: Path, text: str = "", page: str = "docs/manual.md") -> list[str]:
    """The problems, with a text added to a page."""
    path = repository / page
    path.write_text((path.read_text() if path.exists() else "") + text)
    return list(docs.Checker(repository, {"cascade": shop}, {"PART": ["flood"]}).problems())


def test_correct_pages_pass(repository: Path) -> None:
    assert not said(repository)


@pytest.mark.parametrize(
    "text",
    [
        "`cloud/shop/app.py`, `cloud/shop/`, `cloud/*/app.py`, `app.py`, `test_sale`, `Makefile`",
        "`tests/shop/test_goods.py::test_sale`",
        "`cloud/<service>/app.py` and `DIR/secrets` and cloud/shop/words.py without marks",
        "`make unit` and `cascade --json`",
        "`make unit PART=flood`, `PART=flood`, `PART=NAME`, `OTHER=none`",
        "```\nmake unit\nan output of cloud/nothing.py\n```",
        "[a](../README.md), [b](#manual), [c](https://shop.example/x#y), [`app.py`](../cloud/shop/app.py)",
        "`[not a link](nowhere.md)`",
    ],
)
def test_existing_names_pass(repository: Path, text: str) -> None:
    assert not said(repository, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("`cloud/shop/gone.py`", "docs/manual.md:6: there is no file cloud/shop/gone.py."),
        ("`cloud/*/gone.py`", "docs/manual.md:6: no file matches cloud/*/gone.py."),
        ("`gone.py`", "docs/manual.md:6: there is no file gone.py."),
        ("`GONE.md`", "docs/manual.md:6: there is no file GONE.md."),
        ("`test_gone`", "docs/manual.md:6: there is no test test_gone."),
        (
            "`tests/shop/test_goods.py::test_gone`",
            "docs/manual.md:6: tests/shop/test_goods.py has no test test_gone.",
        ),
        ("`make unit PART=fire`", "docs/manual.md:6: PART is one of flood, and not fire."),
        ("`PART=fire`", "docs/manual.md:6: PART is one of flood, and not fire."),
        ("`make units`", "docs/manual.md:6: make has no target units."),
        ("```\ntext\nmake units\n```", "docs/manual.md:8: make has no target units."),
        ("```\ncascade \\\n  --jsn\n```", "docs/manual.md:7: cascade has no option --jsn."),
        ("    cascade --jsn\n", "docs/manual.md:6: cascade has no option --jsn."),
        ("see cascadia(8)", "docs/manual.md:6: there is no manual page cascadia(8)."),
        ("[a](gone.md)", "docs/manual.md:6: the link leads to gone.md, which does not exist."),
        ("[a](#gone)", "docs/manual.md:6: the link leads to #gone, and docs/manual.md has no such heading."),
        ("[a](../README.md#gone)", "docs/manual.md:6: the link leads to #gone, and ../README.md has no such heading."),
        ("[a]: gone.md", "docs/manual.md:6: the link leads to gone.md, which does not exist."),
        ("x" * 121, "docs/manual.md:6: 121 characters, and 120 are allowed."),
    ],
)
def test_a_missing_name_is_reported_with_its_line(repository: Path, text: str, problem: str) -> None:
    assert said(repository, text) == [problem]


def test_the_changelog_may_name_removed_files(repository: Path) -> None:
    assert not said(repository, "`cloud/shop/gone.py` is gone; `make units` as well.\n", "CHANGELOG.md")


def test_two_headings_of_one_text_have_two_anchors() -> None:
    page = docs.Page("x.md", "# A b\n\n## A b\n\n```\n# no heading\n```\n\n## C: `d`, e-f\n")
    assert page.anchors == {"a-b", "a-b-1", "c-d-e-f"}


def test_the_claims_are_the_rows_of_one_section(repository: Path) -> None:
    checker = docs.Checker(repository, {}, {})
    assert checker.claims() == [
        (7, "Goods are counted", ["tests/shop/test_goods.py"]),
        (8, "Goods are sold once", ["tests/shop/test_goods.py::test_sale"]),
    ]


ONE = (7, "One", ["tests/a.py"])
CASES: dict[str, tuple[list[tuple[int, str, list[str]]], set[str], list[str]]] = {
    "a file with a test": ([ONE], {"tests/a.py::test_one"}, []),
    "a named test": ([(7, "One", ["tests/a.py::test_one"])], {"tests/a.py::test_one[x-y]"}, []),
    "another test of the file": (
        [(7, "One", ["tests/a.py::test_one"])],
        {"tests/a.py::test_one_more"},
        ["README.md:7: pytest collects no test tests/a.py::test_one."],
    ),
    "no test in the file": ([ONE], set(), ["README.md:7: pytest collects no test tests/a.py."]),
    "no test named": ([(7, "One", [])], set(), ['README.md:7: the claim "One" names no test.']),
    "no table": ([], set(), ['README.md: the section "What is enforced" has no table of claims.']),
}


@pytest.mark.parametrize("name", CASES)
def test_a_claim_needs_a_collected_test(name: str) -> None:
    claims, collected, problems = CASES[name]
    assert list(docs.claim_problems(claims, lambda _: (collected, ""))) == problems


def test_an_error_of_the_collection_is_reported() -> None:
    (problem,) = docs.claim_problems([ONE], lambda _: ({"tests/a.py::test_one"}, "SyntaxError"))
    assert problem == "README.md: pytest cannot collect the tests of the claims: SyntaxError"


@pytest.mark.slow
def test_pytest_collects_the_named_files_only(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # These files need no plugin, and the installed ones take seconds to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (repository / "tests/shop/test_other.py").write_text("raise RuntimeError\n")
    files = ["tests/shop/test_goods.py", "tests/shop/test_gone.py"]
    assert docs.collect(repository, files) == ({"tests/shop/test_goods.py::test_sale"}, "")
    (repository / "tests/shop/test_goods.py").write_text("raise RuntimeError('broken')\n")
    found, trouble = docs.collect(repository, files)
    assert not found
    assert "broken" in trouble or "error" in trouble


def test_the_pages_of_this_repository_are_read() -> None:
    checker = docs.Checker(docs.REPOSITORY, {}, {})
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/adr/README.md"} <= {
        page.path for page in checker.pages
    }
    assert len(checker.claims()) > 20
