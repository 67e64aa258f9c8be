"""Adapter: print the progress of a long command to stderr, if stderr is a terminal."""

from argparse import Namespace

from cloud.breakwater.checks.checker import Progress
from cloud.cli.show import is_watched, progress

PROGRESS_EVERY = 2_000
"""Certificates between two updates of the progress."""


def watcher(args: Namespace) -> Progress:
    """Return the function that prints progress. It prints nothing with `--json`, or if stderr is not a terminal."""
    return _progress if is_watched(as_json=args.json) else _silent


def _silent(_what: str, _done: int, _all: int) -> None:
    """Print nothing."""


def _progress(what: str, done: int, total: int) -> None:
    if done % PROGRESS_EVERY == 0 or done == total or what != "certificates":
        progress(f"{what}: {done} of {total}", last=done == total)
