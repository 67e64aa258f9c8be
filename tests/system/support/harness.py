"""Cloud and machine as processes that a test can kill at a chosen point: forked, with a `Plan` of faults."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lab.cloud import Cloud
from lab.forks import ForkServer
from lab.machine import Machine
from lab.processes import Process, Side
from lab.tpm import SoftTpm
from protocol import faults
from tests.light_keys import use_light_keys
from tests.system.support import witness

_SERVER = ForkServer("tests.system.support.harness")


class Plan(msgspec.Struct, frozen=True):
    """A `Start`. Its process appends the fault points it passes to `record`, and kills itself at `kill` = (name, stage).

    It dies by SIGKILL, so that nothing is flushed or closed. `control` is the folder of a witness
    (`tests.system.support.witness`) in an issuer's process; a `patient` one waits for other replicas as long as a real
    one.
    """

    record: str = ""
    kill: tuple[str, str] | None = None
    control: str = ""
    patient: bool = False

    def __call__(self, directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Fork a command line with this plan."""
        return _SERVER.start(directory, side, arguments, env, prepare=self.prepare)

    def prepare(self, side: Side) -> None:
        """In the new process: install the plan."""
        faults.install(self._at_fault_point)
        if self.control:
            witness.install(Path(self.control), patient=self.patient)
        if side == "cascade":
            use_light_keys()

    def _at_fault_point(self, name: str, stage: faults.Stage) -> None:
        if self.record:
            with Path(self.record).open("a") as file:
                file.write(f"{name} {stage}\n")
        if self.kill == (name, stage):
            os.kill(os.getpid(), signal.SIGKILL)


forked = Plan()
"""A `Start` of a process that nothing happens to."""


def new_cloud(directory: Path) -> Cloud:
    """A cloud of a test."""
    return Cloud(directory, start=forked)


def new_machine(directory: Path, chip: SoftTpm, name: str = "machine", heartbeat_seconds: int = 2) -> Machine:
    """A machine of a test."""
    return Machine(directory, chip, name, heartbeat_seconds, start=forked)
