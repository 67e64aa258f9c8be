"""Building blocks of the command line: commands that load late, and the options that several of them have."""

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Run = Callable[[Namespace], int | None]
"""What a command does; the exit code, None for 0. Raises CliError."""
AddOptions = Callable[[ArgumentParser], object]


class _LateParser(ArgumentParser):
    """A parser that gets its options when the command line names its command."""

    add_options: AddOptions | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.add_options is not None:
            add_options, self.add_options = self.add_options, None
            add_options(self)
        return super().parse_known_args(args, namespace)


class Commands:
    """The sub-commands of a parser. Each has the options that `shared` adds, before its own."""

    def __init__(self, parser: ArgumentParser, dest: str, *shared: AddOptions) -> None:
        self._parsers = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper(), parser_class=_LateParser)
        self._shared = shared

    def add(self, name: str, summary: str, text: str = "", *, run: Run | None = None) -> ArgumentParser:
        """A command. `summary` stands in the list of commands, `text` (or else `summary`) on the command's own page."""
        return self._add(name, summary, text, run)

    def load(self, name: str, summary: str, module: str, add_options: str = "add_options") -> None:
        """A command whose module is imported when the command line names it, and then adds its options.

        The servers' libraries take most of a second to import; a command that does not need them must not wait.
        """

        def load(parser: ArgumentParser) -> None:
            getattr(import_module(module), add_options)(parser)

        self._add(name, summary).add_options = load

    def _add(self, name: str, summary: str, text: str = "", run: Run | None = None) -> _LateParser:
        made = self._parsers.add_parser(name, help=summary, description=text or summary)
        for add_options in self._shared:
            add_options(made)
        if run is not None:
            made.set_defaults(run=run)
        return made


def json_option(parser: ArgumentParser) -> None:
    """`--json`, which every command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def server_options(parser: ArgumentParser) -> None:
    """The three things that the server is found by; `cloud.cli.connection` takes them from the environment too."""
    parser.add_argument("--url", metavar="URL", help="repository of the installation (CASCADE_URL)")
    parser.add_argument("--trust", metavar="PIN", help="trust pin (CASCADE_TRUST)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="operator's token (CASCADE_TOKEN_FILE)")


def directory_option(parser: ArgumentParser) -> None:
    """`--dir`, for commands on the services' own host."""
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="directory of the installation")


def repeated_options(parser: ArgumentParser) -> None:
    """`--json` and `--dir` after a command's step as well as before it: not given, they leave what stood before."""
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    parser.add_argument(
        "--dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="directory of the installation"
    )
