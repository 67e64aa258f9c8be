"""Starts cloud and machine as forked processes. With a `Plan`, a process kills itself at a chosen fault point."""

import base64
import json
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lab.cloud import Cloud
from lab.forks import ForkServer
from lab.machine import Machine
from lab.processes import Process, Side
from lab.tpm import SoftTpm
from node import clock
from node.hwbind import reading
from node.hwbind.fingerprint import read_components
from node.hwbind.tpm import Tpm
from node.link.api import CloudUnreachable
from protocol import faults
from tests.light_keys import use_light_keys
from tests.system.support import witness

_SERVER = ForkServer("tests.system.support.harness")


class Plan(msgspec.Struct, frozen=True):
    """A `Start` that installs hooks at the fault points of the new process.

    The process appends the name and stage of each fault point that it passes to the file `record`. At the point `kill`,
    a pair of name and stage, it kills itself with SIGKILL, so that it flushes and closes nothing. `control` is the
    folder of a witness (`tests.system.support.witness`) in Breakwater's process. With `patient`, that process waits for
    other replicas as long as in production. An agent waits `tpm_seconds` for an answer of the TPM; 0 is the product's
    own limit. `descriptors` limits the file descriptors of the process; 0 is this machine's limit. `lose` names sends of
    the node whose answer is lost, each once: the cloud has answered, and the process gets CloudUnreachable. A name that
    occurs twice is lost twice. `hardware` is the root of a simulated /sys and /proc,
    whose serial numbers an agent reads; "" is this machine. An agent appends each answer of the cloud to the file
    `answers`, one JSON document a line with the fields of `Recorded`. The agent's own wall clock is wrong by the seconds
    in the file `clock`; OpenSSL and TUF read the right one.
    """

    record: str = ""
    kill: tuple[str, str] | None = None
    control: str = ""
    patient: bool = False
    tpm_seconds: float = 0.0
    descriptors: int = 0
    lose: tuple[str, ...] = ()
    hardware: str = ""
    answers: str = ""
    clock: str = ""

    def __call__(self, directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Fork a command line with this plan."""
        return _SERVER.start(directory, side, arguments, env, prepare=self.prepare)

    def prepare(self, side: Side) -> None:
        """Install the plan. The new process calls this before the command line runs."""
        faults.install(self._at_fault_point)
        if self.lose:
            faults.install(_loser(self.lose))
        if self.descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        if self.control:
            witness.install(Path(self.control), patient=self.patient)
        if side == "cascade":
            use_light_keys()
        if self.hardware:
            # The agent reads the machine that it runs on, so no setting names another one.
            setattr(reading, "read_components", partial(read_components, Path(self.hardware), _no_udev))  # noqa: B010 (a patch)
        if self.answers:
            _record_answers(Path(self.answers))
        if self.clock:
            # No other module of the node reads a clock, and no setting makes the clock wrong.
            setattr(clock, "datetime", _ShiftedClock(Path(self.clock)))  # noqa: B010 (a patch)
        if self.tpm_seconds:
            limits = Tpm.__init__.__kwdefaults__
            assert limits is not None
            limits["command_seconds_max"] = self.tpm_seconds

    def _at_fault_point(self, name: str, stage: faults.Stage) -> None:
        if self.record:
            with Path(self.record).open("a") as file:
                file.write(f"{name} {stage}\n")
        if self.kill == (name, stage):
            os.kill(os.getpid(), signal.SIGKILL)


class _ShiftedClock:
    """In the place of the class `datetime` in `node.clock`: a clock that is wrong by the seconds in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self, zone: tzinfo) -> datetime:
        return datetime.now(zone) + timedelta(seconds=int(self._file.read_text()))


class Recorded(NamedTuple):
    """An answer of the cloud to a node."""

    method: str
    path: str
    """Path without the query."""
    status: int
    body: str
    """Base64."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _record_answers(file: Path) -> None:
    """Record each answer that the agent of this process gets. Only the process itself sees it in plain text."""
    from node.link import http

    exchange: Callable[..., Awaitable[Any]] = http.Client.exchange

    async def recording(client: Any, method: str, path: str, *arguments: Any, **options: Any) -> Any:
        answer = await exchange(client, method, path, *arguments, **options)
        body = base64.b64encode(answer.body).decode()
        line = Recorded(method, path.partition("?")[0], answer.status, body)
        with file.open("a") as recorded:
            recorded.write(f"{json.dumps(line._asdict())}\n")
        return answer

    setattr(http.Client, "exchange", recording)  # noqa: B010 (a patch)


def _loser(names: Sequence[str]) -> faults.Hook:
    """A hook that loses the next answer of each of these sends."""
    left = list(names)

    def lose(name: str, stage: faults.Stage) -> None:
        if stage == "after" and name in left:
            left.remove(name)
            raise CloudUnreachable(f"cannot read the answer after {name}: a test lost it")

    return lose


def _no_udev(_device: Path) -> Mapping[str, str]:
    """The udev database of a simulated machine."""
    return {}


forked = Plan()
"""A `Start` without faults."""


def new_cloud(directory: Path) -> Cloud:
    """A cloud whose processes are forked, with cheap key files."""
    return Cloud(directory, start=forked)


def new_machine(directory: Path, chip: SoftTpm, name: str = "machine", heartbeat_seconds: int = 2) -> Machine:
    """A machine whose processes are forked."""
    return Machine(directory, chip, name, heartbeat_seconds, start=forked)
