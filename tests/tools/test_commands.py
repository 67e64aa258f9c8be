"""`tools.commands`: the check of commands named in pages, on a small Makefile and small parsers."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from cloud.cli.main import parser as cascade_parser
from tools.commands import Commands, is_command

MAKEFILE = """ARGS ?=
unit: setup ## quick tests
\t@pytest $(ARGS) $(MINUTES)
api-fuzz:
\t@true
"""


def shop() -> ArgumentParser:
    made = ArgumentParser()
    groups = made.add_subparsers(required=True)
    serve = groups.add_parser("serve")
    serve.add_argument("service", choices=["till", "store"])
    serve.add_argument("--dir")
    pki = groups.add_parser("pki")
    pki.add_argument("--dir")
    actions = pki.add_subparsers(required=True)
    revoke = actions.add_parser("revoke")
    revoke.add_argument("--serial")
    revoke.add_argument("--dry-run", action="store_true")
    revoke.add_argument("name", nargs="?")
    return made


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/tree.py").touch()
    return Commands(tmp_path, {"cascade": shop}, {"MINUTES": ["3", "5"]})


@pytest.mark.parametrize(
    "text",
    [
        "make unit",
        "make unit api-fuzz",
        "make unit ARGS='-x tests/node'",
        "make -j2 unit MINUTES=3   # a comment",
        "make TARGET",
        "python -m tools.tree",
        ".venv/bin/python -m pytest tools/tree.py -k name",
        "cascade",
        "cascade pki",
        "cascade pki ...",
        "cascade serve till --dir DIR",
        "cascade serve SERVICE --dir=DIR",
        "sudo .venv/bin/cascade serve store > log",
        "cascade pki --dir DIR revoke --serial 12 NAME",
        "cascade pki revoke [--dry-run] --serial / --dry-run",
        "cascade pki revoke \\\n  --serial 12",
        "unset X; cascade pki revoke",
        "pip install anything",
    ],
)
def test_existing_commands_pass(commands: Commands, text: str) -> None:
    assert not list(commands.problems(text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("make units", "make has no target units"),
        ("make unit drill", "make has no target drill"),
        ("make unit PART=x", "make has no variable PART"),
        ("make unit MINUTES=4", "MINUTES is one of 3, 5, and not 4"),
        ("python -m tools.trees", "python has no module tools.trees"),
        ("python -m pytest tests/test_away.py", "there is no file tests/test_away.py"),
        ("cascade pkix", "cascade has no command pkix"),
        ("cascade pki forget", "cascade pki has no command forget"),
        ("cascade --dir DIR", "cascade has no option --dir"),
        ("cascade pki revoke --serials 12", "cascade pki revoke has no option --serials"),
        ("cascade pki --dir DIR revoke --dir DIR", "cascade pki revoke has no option --dir"),
        ("cascade serve bank", "cascade serve takes till, store, and not bank"),
        ("make unit && cascade pki revoke --port 1", "cascade pki revoke has no option --port"),
        ("cascade pki revoke --json 'not closed", "cascade pki revoke has no option --json"),
    ],
)
def test_a_missing_command_is_named(commands: Commands, text: str, problem: str) -> None:
    assert list(commands.problems(text)) == [problem]


def test_options_that_a_command_adds_late_are_known(tmp_path: Path) -> None:
    (tmp_path / "Makefile").touch()
    real = Commands(tmp_path, {"cascade": cascade_parser}, {})
    assert not list(real.problems("cascade hardware add-root TENANT FILE --ek-type rsa2048"))
    assert list(real.problems("cascade hardware add-root TENANT FILE --ek-types rsa2048")) == [
        "cascade hardware add-root has no option --ek-types"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("make test", True),
        ("$ cascade up", True),
        (".venv/bin/cascadia run", True),
        ("cascade: cannot start", False),
        ("makes a key", False),
        ("cascade.example", False),
    ],
)
def test_a_command_is_known_by_its_first_word(text: str, expected: bool) -> None:
    assert is_command(text) is expected
