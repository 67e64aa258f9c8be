"""What the demo plays on: a scratch directory, the two command lines as processes, and a table of steps.

A step is a function that checks its own outcome and raises `StepFailed`. Everything started here is ended here.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from lab.processes import BIN, Process, StepFailed
from lab.tpm import SoftTpm


class Stage:
    """The scratch directory and every process in it; leaving it ends them all."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cascade-demo-"))
        self._processes: list[Process] = []
        self._machines = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for process in reversed(self._processes):
            try:
                process.stop()
            except StepFailed as error:
                print(f"  {error}", file=sys.stderr)
        self._machines.close()
        if kind is None:
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            print(f"  kept for a look: {self.directory}", file=sys.stderr)

    def adopt(self, chip: SoftTpm) -> None:
        """Have a started software TPM ended with the stage, after the processes that use it."""
        self._machines.callback(chip.stop)

    def start(self, name: str, command: list[str], extra: dict[str, str]) -> Process:
        process = Process(name, command, {**os.environ, **extra}, self.directory / f"{name}.log")
        self._processes.append(process)
        return process

    def run(self, command: list[str], extra: dict[str, str], expect: int = 0) -> Any:
        """Run a command line with `--json`; its document. Raises StepFailed on another exit code."""
        full = [str(BIN / command[0]), *command[1:], "--json"]
        done = subprocess.run(
            full, env={**os.environ, **extra}, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != expect:
            said = (done.stderr + done.stdout).strip()[-1500:]
            raise StepFailed(f"`{' '.join(command)}` exited {done.returncode}, not {expect}: {said}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def tool(self, folder: Path, *command: str) -> str:
        """Run somebody else's program in a folder; all that it says. Raises StepFailed if it fails."""
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
        said = done.stdout + done.stderr
        if done.returncode != 0:
            raise StepFailed(f"`{' '.join(command)}` exited {done.returncode}: {said.strip()[-1500:]}")
        return said


class Story:
    """Tells each step as it happens and keeps the table."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, float]] = []
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Run a step: the yielded function says its outcome. A failure is told and goes on up."""
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
