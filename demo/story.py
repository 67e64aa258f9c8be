"""Output of the demo: a line when a step begins, a line for its result, and a table of all steps at the end.

A step checks its own outcome and raises `StepFailed`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Story:
    """Prints each step while it runs, and collects the table."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, float]] = []
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Run a step. The yielded function prints and records its result. A failure is recorded and raised again."""
        outcome = ["done"]
        print(f"\n▸ {title}", flush=True)
        began = time.monotonic()

        def say(text: str) -> None:
            outcome[0] = text
            print(f"  {text}", flush=True)

        try:
            yield say
        except BaseException as error:
            self._rows.append((title, f"FAILED: {error}", time.monotonic() - began))
            raise
        self._rows.append((title, outcome[0], time.monotonic() - began))

    def table(self) -> str:
        width = max(len(title) for title, _, _ in self._rows)
        lines = [f"{title:<{width}}  {seconds:6.1f} s  {outcome}" for title, outcome, seconds in self._rows]
        total = time.monotonic() - self._began
        return "\n".join([*lines, f"{'total':<{width}}  {total:6.1f} s"])
