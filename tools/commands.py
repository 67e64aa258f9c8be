"""Commands in pages: which targets of make, modules of Python and commands of Cascade a line of shell text calls.

`problems` checks one line. It reads the Makefile, the file tree, the argument parsers of `cascade` and `cascadia`, and
the names of the drills.
"""

import argparse
import re
import shlex
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

COMMANDS = ("make", "cascade", "cascadia", "python")
"""The first words of the lines of shell text that are checked."""

_BEFORE = re.compile(r"^(?:\$ |sudo |exec )*(?:\.venv/bin/)?")
_BEGINS = re.compile(rf"^(?:\$ |sudo |exec )*(?:\.venv/bin/)?(?:{'|'.join(COMMANDS)})(?=\s|$)")
_TARGET = re.compile(r"^([a-z][a-z-]*):(?!=)", re.MULTILINE)
_VARIABLE = re.compile(r"\$\(([A-Z_]+)\)|^([A-Z_]+) *[?:]?=", re.MULTILINE)
_FILE = re.compile(
    r"(?:protocol|node|cloud|lab|demo|benchmarks|tests|tools|docs|packaging|changelog\.d|\.github|\.ci)/[\w./-]*"
)
_PLACEHOLDER = re.compile(r"[A-Z<.…/]")
"""A placeholder: NAME, CLASS-2, <id>, "..."; or the stroke between alternatives."""


def is_command(text: str) -> bool:
    """Whether a line of shell text, or a span of code, begins with one of the `COMMANDS`."""
    return bool(_BEGINS.match(text.strip()))


class Commands:
    """The commands of a repository. A parser is made when the first line names its command.

    `values` has the accepted values of a variable of make. Every value of another variable passes.
    """

    def __init__(
        self,
        repository: Path,
        parsers: Mapping[str, Callable[[], ArgumentParser]],
        values: Mapping[str, Collection[str]],
    ) -> None:
        makefile = (repository / "Makefile").read_text("utf-8")
        self._targets = set(_TARGET.findall(makefile))
        self._variables = {one or other for one, other in _VARIABLE.findall(makefile)}
        self._values = values
        self._repository = repository
        self._makers = dict(parsers)
        self._parsers: dict[str, ArgumentParser] = {}

    def problems(self, text: str) -> Iterator[str]:
        """The names in a line of shell text that do not exist. Each command of the line is checked."""
        for words in _split(text):
            command, rest = _BEFORE.sub("", words[0]), words[1:]
            if command == "make":
                yield from self._make(rest)
            elif command == "python":
                yield from self._python(rest)
            elif command in self._makers:
                if command not in self._parsers:
                    self._parsers[command] = self._makers[command]()
                yield from parser_problems(self._parsers[command], command, rest)

    def _make(self, words: list[str]) -> Iterator[str]:
        for word in words:
            name, equals, value = word.partition("=")
            if equals and name not in self._variables:
                yield f"make has no variable {name}"
            elif equals:
                yield from self.value_problems(name, value)
            elif not word.startswith("-") and word not in self._targets and not _PLACEHOLDER.match(word):
                yield f"make has no target {word}"

    def value_problems(self, name: str, value: str) -> Iterator[str]:
        """The value of a variable of make, if the variable does not accept it."""
        accepted = self._values.get(name)
        if accepted is not None and value not in accepted and not _PLACEHOLDER.match(value):
            yield f"{name} is one of {', '.join(sorted(accepted))}, and not {value}"

    def _python(self, words: list[str]) -> Iterator[str]:
        for one, other in pairwise(words):
            if one == "-m" and (self._repository / other.partition(".")[0]).is_dir():
                module = self._repository / other.replace(".", "/")
                if not (module.with_suffix(".py").exists() or (module / "__main__.py").exists()):
                    yield f"python has no module {other}"
        for word in words:
            if _FILE.fullmatch(word) and not (self._repository / word).exists():
                yield f"there is no file {word}"


def _split(text: str) -> list[list[str]]:
    """The words of each command in a line. Comments, redirections and the marks of optional parts are left out."""
    text = text.replace("[", " ").replace("]", " ").replace("\\\n", " ")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        words = text.split()
    commands: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("();<>|&"):
            commands.append([])
        else:
            commands[-1].append(word)
    found = []
    for words in commands:
        while words and words[0] in {"$", "sudo", "exec"}:
            del words[0]
        if words:
            found.append(words)
    return found


def parser_problems(parser: ArgumentParser, name: str, words: list[str]) -> Iterator[str]:
    """The words after a command's name that its parser does not know: a sub-command, an option, a choice."""
    _load(parser)
    waiting = list(words)
    placed = 0
    while waiting:
        word = waiting.pop(0)
        if word.startswith("-") and word.strip("-"):
            option, equals, _ = word.partition("=")
            action = parser._option_string_actions.get(option)
            if action is None:
                yield f"{name} has no option {option}"
            elif action.nargs != 0 and not equals and waiting:
                waiting.pop(0)
            continue
        positional = [action for action in parser._actions if not action.option_strings]
        action = positional[min(placed, len(positional) - 1)] if positional else None
        placed += 1
        if isinstance(action, argparse._SubParsersAction):
            if word in action.choices:
                yield from parser_problems(action.choices[word], f"{name} {word}", waiting)
                return
            if not _PLACEHOLDER.match(word):
                yield f"{name} has no command {word}"
            return
        if action is not None and action.choices and word not in action.choices and not _PLACEHOLDER.match(word):
            yield f"{name} takes {', '.join(map(str, action.choices))}, and not {word}"


def _load(parser: ArgumentParser) -> None:
    """Have a parser of `cascade` add the options that it adds when its command is named."""
    if add_options := getattr(parser, "add_options", None):
        parser.__dict__["add_options"] = None
        add_options(parser)
