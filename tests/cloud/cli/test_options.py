"""Commands that are imported on demand get their options from their own module only."""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from cloud.cli.options import Commands, directory_option, json_option, repeated_options, server_options
from cloud.cli.owner import INSTALLATION


def run(_: Namespace) -> None:
    """A command that does nothing."""


def parser_with(*shared: object) -> tuple[ArgumentParser, Commands]:
    root = ArgumentParser(prog="it")
    return root, Commands(root, "command", *shared)  # type: ignore[arg-type]  # functions that add options


def test_shared_options_stand_before_a_commands_own() -> None:
    root, commands = parser_with(json_option, server_options)
    commands.add("do", "what it does", "At length.", run=run).add_argument("--own")
    args = root.parse_args(["do", "--json", "--url", "u", "--trust", "t", "--token-file", "f", "--own", "o"])
    assert (args.command, args.json, args.url, args.token_file, args.own) == ("do", True, "u", Path("f"), "o")
    assert args.run is run
    assert "what it does" in root.format_help()
    assert root.parse_args(["do"]).json is False


def test_a_command_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    root, commands = parser_with(directory_option)
    commands.add("do", "what it does", run=run)
    for arguments in ([], ["other"]):
        with pytest.raises(SystemExit, match="2"):
            root.parse_args(arguments)
    assert "invalid choice: 'other'" in capsys.readouterr().err
    assert root.parse_args(["do"]).dir == INSTALLATION


def test_what_stood_before_a_step_stays() -> None:
    root, _ = parser_with()
    parser = ArgumentParser(prog="rotate")
    json_option(parser)
    parser.add_argument("--dir", type=Path)
    Commands(parser, "step", repeated_options).add("go", "a step", run=run)
    for arguments in (["--json", "--dir", "d", "go"], ["go", "--dir", "d", "--json"]):
        args = parser.parse_args(arguments)
        assert (args.json, args.dir) == (True, Path("d"))
    assert root.prog == "it"


def test_a_module_is_imported_when_its_command_is_named() -> None:
    root, commands = parser_with()
    commands.load("audit", "what was done", "cloud.cli.audit")
    commands.load("gone", "nothing", "cloud.cli.no_such_module")
    assert "what was done" in root.format_help()
    assert root.parse_args(["audit", "list", "--limit", "3"]).limit == 3
    with pytest.raises(ModuleNotFoundError):
        root.parse_args(["gone"])


def test_help_imports_no_service() -> None:
    script = (
        "import contextlib, io, sys; from cloud.cli.main import main\n"
        "for command in ([], ['pki'], ['trust']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main([*command, '--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('cryptography', 'litestar', 'piccolo', 'tuf', 'httpx')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
