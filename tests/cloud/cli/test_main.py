"""The entry point: every command has a help page, and every failure has its exit code."""

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cloud.cli import main as entry
from cloud.cli.errors import EXIT_REFUSED, CliError
from cloud.cli.main import main, parser
from cloud.cli.options import Run


def commands_of(found: argparse.ArgumentParser, *before: str) -> Iterator[tuple[str, ...]]:
    """All commands below a parser, with their options loaded."""
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield (*before, name)
                if below.add_options is not None:
                    below.add_options(below)
                yield from commands_of(below, *before, name)


ROOT = Path(__file__).parents[3]
_NAMED = re.compile(r"(?:`|^|: )cascade ([a-z]+(?: [a-z]+(?:-[a-z]+)*)?)", re.MULTILINE)
"""Finds a command in a page's text, or on a line by itself."""
COMMANDS = sorted(commands_of(parser()))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_page(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: cascade {' '.join(command)}")
    assert "--json" in printed or "ACTION ..." in printed


def test_the_groups() -> None:
    groups = {command[0] for command in COMMANDS}
    assert groups == {
        *(
            "backup",
            "init",
            "restore",
            "up",
            "serve",
            "config",
            "pki",
            "tenant",
            "hardware",
            "code",
            "activation",
            "airgap",
            "node",
            "reconcile",
            "recovery",
            "trust",
            "token",
            "audit",
            "consumer",
            "schema",
        ),
    }
    assert {command[1] for command in COMMANDS if command[0] == "pki" and len(command) == 2} == {
        *("ceremony", "status", "issue", "revoke", "renew", "rotate", "crl", "check", "export"),
    }


def test_pages_name_commands_that_are_there() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    named = {command for page in pages for command in _NAMED.findall(page.read_text())}
    assert len(named) > 10
    groups = {command[0] for command in COMMANDS if len(command) > 1}
    for words in named:
        group, _, action = words.partition(" ")
        assert (group,) in COMMANDS, words
        assert not action or group not in groups or (group, action) in COMMANDS, words


def ends_with(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Replace all commands by one."""

    def one() -> argparse.ArgumentParser:
        made = argparse.ArgumentParser()
        made.add_argument("--json", action="store_true")
        made.set_defaults(run=run)
        return made

    monkeypatch.setattr(entry, "parser", one)


def answering(found: int | None, _: argparse.Namespace) -> int | None:
    return found


def raising(error: BaseException) -> Run:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_a_command_says_how_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, code in ((None, 0), (0, 0), (65, 65)):
        ends_with(monkeypatch, partial(answering, found))
        assert main([]) == code


def test_an_error_is_printed_for_people_or_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends_with(monkeypatch, raising(CliError(EXIT_REFUSED, "still_needed", "refused: in use", "Wait.")))
    assert main([]) == 77
    assert capsys.readouterr().err == "cascade: refused: in use\n  Wait.\n"
    assert main(["--json"]) == 77
    assert json.loads(capsys.readouterr().out) == {
        "error": {"code": "still_needed", "text": "refused: in use", "next": "Wait.", "exit_code": 77}
    }
    ends_with(monkeypatch, raising(CliError(EXIT_REFUSED, "refused", "no")))
    assert main([]) == 77
    assert capsys.readouterr().err == "cascade: no\n"


def test_an_unexpected_exception_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ends_with(monkeypatch, raising(KeyboardInterrupt()))
    assert main([]) == 130
    ends_with(monkeypatch, raising(RuntimeError("a bug")))
    with caplog.at_level(logging.CRITICAL, "cascade"):
        assert main([]) == 70
    assert caplog.records[-1].exc_info
    ends_with(monkeypatch, raising(BrokenPipeError()))
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    monkeypatch.setattr(sys.stdout, "close", lambda: None)
    assert main([]) == 0
    assert capsys.readouterr().out == ""


def test_a_wrong_argument_and_a_bug_reach_no_terminal_unescaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "list", "--no-such=\x1b[2J"])
    assert "\\x1b[2J" in (printed := capsys.readouterr().err)
    assert all(line.isprintable() for line in printed.split("\n"))
    assert logging.lastResort is not None
    record = logging.makeLogRecord({"msg": "internal error", "exc_info": (ValueError, ValueError("\x1b[2J"), None)})
    assert "ValueError: \\x1b[2J" in logging.lastResort.format(record)
