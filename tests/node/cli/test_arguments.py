"""The parser of one command takes the same arguments as the parser of all commands."""

import pytest

from node.cli.arguments import _TEXTS, parser
from node.cli.main import _COMMANDS, _parsed

ARGUMENTS = {
    "activate": ["file.json", "--no-wait", "--software"],
    "entitlement": ["vision"],
    "identity": ["ek"],
    "config": ["check"],
    "license": ["show"],
    "recover": ["--file", "f", "--code-file", "-", "--node", "n", "--software", "--no-wait"],
    "renew": ["--rekey"],
}


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_parser_of_one_command_is_that_of_all_commands(name: str) -> None:
    line = [name, "--state-dir", "/s", "--tpm", "device:/t", "--json", *ARGUMENTS.get(name, [])]
    assert parser(only=name).parse_args(line) == parser().parse_args(line)


@pytest.mark.parametrize("line", [["run"], ["run", "--json"], ["status"]])
def test_a_command_has_the_arguments_of_the_parser_of_all_commands(line: list[str]) -> None:
    """Without options `run` makes no parser."""
    assert vars(_parsed(line)) == vars(parser().parse_args(line))


def test_every_command_has_its_texts() -> None:
    assert set(_TEXTS) == set(_COMMANDS)


def test_the_parser_of_one_command_knows_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser(only="run").parse_args(["status"])
    assert "invalid choice" in capsys.readouterr().err
