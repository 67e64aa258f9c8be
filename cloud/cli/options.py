"""Building blocks of the command line: commands whose module is imported on demand, and options that commands share."""

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from cloud.cli.owner import INSTALLATION
from protocol.text import escaped_lines

JSON_HELP = "print one JSON document instead of text"
DIR_HELP = f"directory of the installation (default: {INSTALLATION})"

Run = Callable[[Namespace], int | None]
"""Runs a command and returns its exit code; None means 0. Raises CliError."""
AddOptions = Callable[[ArgumentParser], object]
"""Adds options to a command's parser. The result is ignored."""


class Parser(ArgumentParser):
    """A parser whose texts have no characters that a terminal acts on: an error repeats the argument."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(escaped_lines(message), file)


class _LateParser(Parser):
    """A parser that gets its options once the command line names its command."""

    add_options: AddOptions | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.add_options is not None:
            add_options, self.add_options = self.add_options, None
            add_options(self)
        return super().parse_known_args(args, namespace)


class Commands:
    """The sub-commands of a parser. Each sub-command has the options of `shared`, and then its own.

    `dest` is the attribute of the parsed arguments that holds the sub-command's name.
    """

    def __init__(self, parser: ArgumentParser, dest: str, *shared: AddOptions) -> None:
        self._parsers = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper(), parser_class=_LateParser)
        self._shared = shared

    def add(self, name: str, summary: str, text: str = "", *, run: Run | None = None) -> ArgumentParser:
        """Add a command and return its parser.

        The list of commands shows `summary`. The command's own page shows `text`, or `summary` as a
        sentence if `text` is empty.
        """
        return self._add(name, summary, text, run)

    def load(self, name: str, summary: str, module: str, add_options: str = "add_options") -> None:
        """Add a command whose `module` is imported once the command line names the command.

        The function `add_options` of the module then adds the options. The servers' libraries take most of a second to
        import, and a command that does not need them must not wait for them.
        """

        def load(parser: ArgumentParser) -> None:
            getattr(import_module(module), add_options)(parser)

        self._add(name, summary).add_options = load

    def _add(self, name: str, summary: str, text: str = "", run: Run | None = None) -> _LateParser:
        page = text or f"{summary[0].upper()}{summary[1:]}."
        made = self._parsers.add_parser(name, help=summary, description=page)
        for add_options in self._shared:
            add_options(made)
        if run is not None:
            made.set_defaults(run=run)
        return made


def json_option(parser: ArgumentParser) -> None:
    """Add `--json`, which every command has."""
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def server_options(parser: ArgumentParser) -> None:
    """Add the three options that name the installation. `cloud.cli.connection` also reads them from the environment."""
    _server_options(parser, None)


def repeated_server_options(parser: ArgumentParser) -> None:
    """Add `--json` and the server options to a step, whose command has the same options.

    An option that is given before the step keeps its value unless the step repeats the option.
    """
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=JSON_HELP)
    _server_options(parser, argparse.SUPPRESS)


def _server_options(parser: ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--url",
        metavar="URL",
        default=default,
        help="http:// URL of the installation's trust repository (default: CASCADE_URL)",
    )
    parser.add_argument(
        "--trust", metavar="PIN", default=default, help="trust pin, VERSION:SHA256 (default: CASCADE_TRUST)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        default=default,
        help="file with the operator's token (default: CASCADE_TOKEN_FILE)",
    )


def dry_run_option(parser: ArgumentParser) -> None:
    """Add `--dry-run` to a command that changes something."""
    parser.add_argument(
        "--dry-run", action="store_true", help="only check: print the object as it would be, and change nothing"
    )


def changing_path(path: str, args: Namespace) -> str:
    """Return the path of a change, for a dry run if the options ask for one."""
    return f"{path}?dry_run=true" if args.dry_run else path


def directory_option(parser: ArgumentParser) -> None:
    """Add `--dir`, for commands that run on the services' own host."""
    parser.add_argument("--dir", type=Path, default=INSTALLATION, metavar="DIR", help=DIR_HELP)


def repeated_options(parser: ArgumentParser) -> None:
    """Add `--json` and `--dir` to a step, whose command has the same options.

    An option that is given before the step keeps its value unless the step repeats the option.
    """
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=JSON_HELP)
    parser.add_argument("--dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=DIR_HELP)
