"""What the demo plays on: a scratch directory, the two command lines as processes, and a table of steps.

A step is a function that checks its own outcome and raises `StepFailed`. Everything started here is ended here.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.simulators.tpm import SoftTpm

WAIT_SECONDS = 30.0
STOP_SECONDS = 10.0
BIN = Path(sys.executable).parent


class StepFailed(Exception):
    """The step's outcome is not what it should be."""


def wait_for(what: str, check: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `check`. Raises StepFailed after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > until:
            raise StepFailed(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)


def free_ports(count: int) -> int:
    """The first of `count` neighbouring free ports on loopback."""
    for base in range(28440, 38440, 10):
        try:
            with ExitStack() as stack:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise StepFailed("no free ports on loopback")


def accepts(port: int) -> bool:
    """Whether something listens there, on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A child with its output in a file."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait(STOP_SECONDS)
                raise StepFailed(f"{self.name} did not stop within {STOP_SECONDS:.0f} s") from None

    @property
    def pid(self) -> int:
        return self._child.pid

    def running(self) -> bool:
        return self._child.poll() is None

    def exit_code(self, seconds: float = WAIT_SECONDS) -> int:
        """Its exit status, waiting for the end."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"{self.name} is still running after {seconds:.0f} s") from None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]


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
