"""Real parts: child processes on a developer's machine, and free ports for them.

`Process` is one child. `start_program` starts any program. A `Start` starts one of the two command lines: `installed`
runs the program beside this interpreter; `lab.forks` forks it from a process that has imported everything.
"""

import itertools
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

WAIT_SECONDS = 30.0
"""How long a process may take to start, to answer or to end. Callers may give another time."""

POLL_SECONDS = 0.02
TAIL_CHARACTERS = 3000
"""How much of a log an error quotes."""
TAIL_LINES = 20
"""How many lines of a log `Process.report` quotes."""
STARTED_MAX = 50
"""How many processes `recent` remembers."""

BIN = Path(sys.executable).parent
"""Where the installed command lines are."""

Side = Literal["cascade", "cascadia"]


class StepFailed(AssertionError):
    """A process or an awaited event did not do what the step needs."""


def wait_until(what: str, check: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Poll `check` and return its first true value. Raises StepFailed after `seconds`; `what` names the event."""
    until = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > until:
            raise StepFailed(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


_FIRST_PORT, _PORTS_EACH, _SLOTS = 10_000, 8, 2_800
"""Below 32768, because Linux takes the ports of outgoing connections from there up."""
_slots = itertools.count(os.getpid() * 16)


def free_ports(count: int = 6) -> int:
    """The first of `count` neighbouring free ports on loopback. Each call in a process returns other ports."""
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
    """Whether a process listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Child(Protocol):
    """The methods of a child that `Process` calls; `subprocess.Popen` has them."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Process:
    """A child process. `log` has its standard error; a file beside it has its standard output."""

    def __init__(self, name: str, child: Child, log: Path, out: Path, command: Sequence[str]) -> None:
        self.name = name
        self.log = log
        self.command = tuple(command)
        self._out = out
        self._child = child
        recent.append(self)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait for the exit status (negative: killed by that signal). Raises StepFailed after `seconds`."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"{self.name} is still running after {seconds:.0f} s:\n{self.report()}") from None

    def stop(self, seconds: float = WAIT_SECONDS) -> int:
        """Send SIGTERM; return the exit status. Kills a process that runs on after `seconds`, and raises StepFailed."""
        if self.running:
            self._child.terminate()
        try:
            return self.wait(seconds)
        except StepFailed:
            self.kill()
            raise

    def kill(self) -> None:
        """Send SIGKILL if the process still runs."""
        if self.running:
            self._child.kill()
        self.wait()

    def printed(self) -> str:
        """The standard output so far."""
        return self._out.read_text(errors="replace") if self._out.exists() else ""

    def out(self) -> Any:
        """The standard output so far, decoded from JSON. None if it is empty."""
        text = self.printed()
        return json.loads(text) if text.strip() else None

    def document(self, expect: int | None = 0, seconds: float = WAIT_SECONDS) -> Any:
        """Wait for the end; return the standard output, decoded from JSON. StepFailed if the status is not `expect`."""
        code = self.wait(seconds)
        if expect is not None and code != expect:
            raise StepFailed(f"{self.name} exited {code}, not {expect}:\n{self.report()}")
        return self.out()

    def tail(self) -> str:
        """The last characters of the log and the standard output."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return (text + self.printed())[-TAIL_CHARACTERS:]

    def report(self) -> str:
        """For an error: command, state, paths of log and output, and their last lines."""
        code = self._child.poll()
        lines = self.tail().splitlines()[-TAIL_LINES:]
        head = (
            f"  command: {shlex.join(self.command)}",
            f"  state:   {'running' if code is None else f'exit status {code}'}, process {self.pid}",
            f"  log:     {self.log}",
            f"  output:  {self._out}",
        )
        return "\n".join([*head, *(f"  | {line}" for line in lines)])


recent: deque[Process] = deque(maxlen=STARTED_MAX)
"""The processes that this process started last."""


def reports(count: int) -> list[str]:
    """Reports of the last `count` processes. Failed ones first, then running ones, then those that ended well."""

    def rank(process: Process) -> int:
        code = process._child.poll()
        return 1 if code is None else 2 if code == 0 else 0

    return [f"{each.name}\n{each.report()}" for each in sorted(list(recent)[-count:], key=rank)]


class Start(Protocol):
    """Starts a command line as a process. Logs go to `directory`; `env` is added to this process's environment."""

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
    return Process(name, child, log, out, command)


def installed(directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
    """A `Start` that runs the installed command line."""
    return start_program(directory, side, [str(BIN / side), *arguments], env)


def new_files(directory: Path, name: str) -> tuple[Path, Path]:
    """The log of all processes named `name` in `directory`, and a new file for the standard output of one process."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}.log", directory / f"{name}-{time.monotonic_ns()}.out"


class Killable(Protocol):
    """A process, or an owner of a process."""

    def kill(self) -> None: ...


@contextmanager
def ended(*things: Killable) -> Iterator[None]:
    """Kill those of `things` that still run at the end of the block."""
    try:
        yield
    finally:
        with ExitStack() as stack:
            for thing in things:
                stack.callback(thing.kill)


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """A temporary directory. It is removed at the end of the block, and kept after an error."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except BaseException:
        print(f"  the files of this run are kept in {directory}", file=sys.stderr)
        raise
    shutil.rmtree(directory, ignore_errors=True)
