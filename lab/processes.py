"""Processes of a developer's machine: started, waited for, stopped."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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
