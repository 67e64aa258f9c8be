"""Frame of the drills: finds the parts, reads the options, bounds the time, prints the figures, sets the exit code.

A part prints its progress on standard error while it runs. At the end the frame prints the figures on standard output,
as lines or (`--json`) as one document:

    {"drill": "soak", "good": true, "seconds": 412.7, "figures": {"certificates": 10000}, "findings": []}

Exit codes: 0 when the drill found nothing wrong, 1 when it found something, 2 for wrong options, 3 when the drill did
not end within its time, 4 when it cannot run on this machine.
"""

import argparse
import importlib
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, cast

import msgspec

import tests.drills

EXIT_GOOD = 0
EXIT_FOUND = 1
EXIT_USAGE = 2
EXIT_TIME = 3
EXIT_CANNOT = 4

FRAME_MODULES = frozenset({"__main__", "frame"})

Figure = int | float | str
Say = Callable[[str], None]
"""Prints one line of progress."""


class Outcome(msgspec.Struct, frozen=True):
    """Result of a drill: the measurements by name, and one finding for each thing that is wrong."""

    figures: Mapping[str, Figure]
    findings: tuple[str, ...] = ()


class Part(Protocol):
    """A module of this folder. The first line of its docstring describes it in the list."""

    USUAL_TIME: str
    """How long the drill takes with its default options on two idle cores, for the list: "8 min"."""
    MINUTES_MAX: float
    """The frame stops the drill after this time, unless `--minutes-max` says otherwise."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the part's own options."""

    def run(self, options: argparse.Namespace, say: Say) -> Outcome:
        """Run the drill. What it started must end when it raises `OutOfTime`, as after any exception."""


class CannotRun(Exception):
    """Raised by a part before it begins: this machine lacks something. The text is the cause and the next step."""


class OutOfTime(BaseException):
    """Raised in the main thread when the time of a drill is over. No `except Exception` in the drill catches it."""


def part_names() -> list[str]:
    """The names of the parts, sorted."""
    modules = (each.name for each in pkgutil.iter_modules(tests.drills.__path__))
    return sorted(name.replace("_", "-") for name in modules if name not in FRAME_MODULES)


def load_part(name: str) -> Part:
    """The module of a part."""
    return cast(Part, importlib.import_module(f"tests.drills.{name.replace('-', '_')}"))


def description(part: Part) -> str:
    """The first line of a part's docstring."""
    return (part.__doc__ or "").partition("\n")[0]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after `seconds`. Works in the main thread only."""

    def over(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str]) -> int:
    """Run one part, or print the list of them. Returns the exit code."""
    names = part_names()
    if not arguments:
        sys.stdout.write(parts_list(names))
        return EXIT_GOOD
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description="Run one drill.")
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name in names:
        part = load_part(name)
        options = parts.add_parser(name, help=description(part), description=description(part))
        options.add_argument("--json", action="store_true", help="print the result as one JSON document")
        options.add_argument(
            "--minutes-max",
            type=float,
            default=part.MINUTES_MAX,
            help="stop the drill after this time (default: %(default)s)",
        )
        part.add_options(options)
    chosen = parser.parse_args(arguments)
    return run_part(chosen.part, load_part(chosen.part), chosen)


def parts_list(names: Sequence[str]) -> str:
    """One line for each part: its name, its usual time, its description."""
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {(part := load_part(name)).USUAL_TIME:>7}  {description(part)}" for name in names]
    return "\n".join(["make drills PART=name [ARGS=--help]", *lines, ""])


def run_part(name: str, part: Part, options: argparse.Namespace) -> int:
    """Run a part within its time and print its result. Returns the exit code."""
    begun = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - begun:7.1f} s] {text}\n")
        sys.stderr.flush()

    try:
        with time_limit(options.minutes_max * 60):
            outcome = part.run(options, say)
    except CannotRun as error:
        say(f"cannot run the drill {name}: {error}")
        return EXIT_CANNOT
    except OutOfTime:
        say(f"cannot finish the drill {name}: it took more than {options.minutes_max:g} minutes (--minutes-max)")
        return EXIT_TIME
    seconds = time.monotonic() - begun
    sys.stdout.write(as_json(name, outcome, seconds) if options.json else as_lines(outcome, seconds))
    return EXIT_FOUND if outcome.findings else EXIT_GOOD


def as_json(name: str, outcome: Outcome, seconds: float) -> str:
    """The result as one JSON document and a line end."""
    document = {
        "drill": name,
        "good": not outcome.findings,
        "seconds": round(seconds, 1),
        "figures": outcome.figures,
        "findings": outcome.findings,
    }
    return f"{msgspec.json.encode(document).decode()}\n"


def as_lines(outcome: Outcome, seconds: float) -> str:
    """The result for people: figures, findings, a last line that says whether something is wrong."""
    figures = {name: f"{value:,.1f}" if isinstance(value, float) else value for name, value in outcome.figures.items()}
    width = max(map(len, figures), default=0)
    lines = [f"{name:<{width}}  {value}" for name, value in figures.items()]
    lines += [f"FOUND {finding}" for finding in outcome.findings]
    found = f"{len(outcome.findings)} findings" if outcome.findings else "nothing wrong"
    return "\n".join([*lines, f"{found}, {seconds:.0f} s", ""])
