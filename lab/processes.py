"""Processes of a developer's machine: started, waited for, stopped; and free ports for them to listen on.

`Process` is one child, whatever started it. `start_program` starts any program; a `Start` starts one of the two command
lines: `installed` runs the one beside this interpreter, `lab.forks` forks it from a process that has everything imported.
"""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

WAIT_SECONDS = 30.0
"""How long a process may take to start, to answer or to end, unless the caller says otherwise."""

POLL_SECONDS = 0.02
TAIL_CHARACTERS = 3000
"""How much of a log an error quotes."""

BIN = Path(sys.executable).parent
"""Where the installed command lines are."""

Side = Literal["cascade", "cascadia"]


class StepFailed(AssertionError):
    """What was started or waited for does not do what it should."""


def wait_until(what: str, check: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `check`. Raises StepFailed after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > until:
            raise StepFailed(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


_FIRST_PORT, _PORTS_EACH, _SLOTS = 10_000, 4, 5_600
"""Below 32768, where Linux takes the ports of outgoing connections from."""
_slots = itertools.count(os.getpid() * 16)


def free_ports(count: int = 4) -> int:
    """The first of `count` neighbouring free ports on loopback; each call in a process returns others."""
    for slot in itertools.islice(_slots, 200):
        base = _FIRST_PORT + slot % _SLOTS * _PORTS_EACH
        try:
            with ExitStack() as stack:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise StepFailed("no free ports on loopback")


def accepts(port: int) -> bool:
    """Whether something listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Child(Protocol):
    """What `Process` needs of the library that started a child; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Process:
    """A child process. `log` holds its standard error, a file beside it what it prints."""

    def __init__(self, name: str, child: Child, log: Path, out: Path) -> None:
        self.name = name
        self.log = log
        self._out = out
        self._child = child

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """The exit status (negative: killed by that signal). Raises StepFailed after `seconds`."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"{self.name} is still running after {seconds:.0f} s:\n{self.tail()}") from None

    def stop(self) -> int:
        """SIGTERM, then the exit status. What does not end in time is killed, and StepFailed raised."""
        if self.running:
            self._child.terminate()
        try:
            return self.wait()
        except StepFailed:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.running:
            self._child.kill()
        self.wait()

    def printed(self) -> str:
        """What it printed so far."""
        return self._out.read_text(errors="replace") if self._out.exists() else ""

    def out(self) -> Any:
        """What it printed, as JSON; None if it printed nothing."""
        text = self.printed()
        return json.loads(text) if text.strip() else None

    def document(self, expect: int | None = 0) -> Any:
        """What it printed, as JSON, once it has ended. Raises StepFailed on another exit status than `expect`."""
        code = self.wait()
        if expect is not None and code != expect:
            raise StepFailed(f"{self.name} exited {code}, not {expect}:\n{self.tail()}")
        return self.out()

    def tail(self) -> str:
        """The end of its log, and of what it printed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return (text + self.printed())[-TAIL_CHARACTERS:]


class Start(Protocol):
    """How a command line becomes a process: logs go to `directory`, `env` is added to this process's environment."""

    def __call__(
        self, directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None
    ) -> Process: ...


def start_program(directory: Path, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
    """Start any program; `name` names its files in `directory`."""
    log, out = new_files(directory, name)
    with log.open("ab") as errors, out.open("ab") as printed:
        child = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=printed, stderr=errors
        )
    return Process(name, child, log, out)


def installed(directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
    """A `Start`: runs the installed command line."""
    return start_program(directory, side, [str(BIN / side), *arguments], env)


def new_files(directory: Path, name: str) -> tuple[Path, Path]:
    """The log that all processes of a name in `directory` share, and a new file for what one of them prints."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}.log", directory / f"{name}-{time.monotonic_ns()}.out"


class Killable(Protocol):
    """A process, or what owns one."""

    def kill(self) -> None: ...


@contextmanager
def ended(*things: Killable) -> Iterator[None]:
    """Kill what is still running of these at the end."""
    try:
        yield
    finally:
        with ExitStack() as stack:
            for thing in things:
                stack.callback(thing.kill)


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """A temporary directory: removed at the end, kept for a look after an error."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except BaseException:
        print(f"  kept for a look: {directory}", file=sys.stderr)
        raise
    shutil.rmtree(directory, ignore_errors=True)
