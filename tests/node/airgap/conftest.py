"""Fixtures: a machine without a network that was activated, an empty one, and the operators who answer requests."""

from pathlib import Path

import pytest

from node.airgap.answers import Imports
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.state import State
from node.trust.files import publish
from node.trust.update import update_from_files
from protocol.codes import make_secret
from protocol.encoding import sha256_hex
from protocol.messages.activation import ACTIVATION_FILE_FORMAT, ActivationFile
from tests.node.conftest import Machine
from tests.node.shells import apply, forget_floors, identity
from tests.simulators.carried_answers import Answerer
from tests.simulators.fabric import Fabric, utc_now

URL = "http://127.0.0.1:1"


class Site:
    """One machine without a network: its state directory and its TPM."""

    def __init__(self, directory: Path, tpm: Tpm) -> None:
        self.directory = directory
        self.tpm = tpm
        self.state = State(directory)
        self.hardware = HardwareCheck(tpm)

    def start(self) -> Licence:
        """The licence of another start."""
        self.state = State(self.directory)
        self.state.floors.tpm = self.tpm
        self.hardware = HardwareCheck(self.tpm)
        return self.state.load_licence(self.hardware, machine_clocks())

    def imports(self) -> Imports:
        return Imports(self.state, self.tpm, self.hardware)

    async def receive(self, data: bytes) -> Licence:
        """Import an answer as the command does, in another process."""
        self.state = State(self.directory)
        self.hardware = HardwareCheck(self.tpm)
        return await self.imports().alone(data, utc_now)


@pytest.fixture
def quiet() -> Fabric:
    """A cloud that serves nothing, because the machine has no network."""
    return Fabric()


@pytest.fixture
def operators(quiet: Fabric) -> Answerer:
    return Answerer(quiet)


@pytest.fixture
def empty(tmp_path: Path, machine: Machine, tpm: Tpm) -> Site:
    """A machine that was never activated."""
    forget_floors(machine.chip.tcti)
    return Site(tmp_path / "empty", tpm)


@pytest.fixture
def site(tmp_path: Path, operators: Answerer, quiet: Fabric, machine: Machine, tpm: Tpm) -> Site:
    """A machine in generation 1, with a lease."""
    forget_floors(machine.chip.tcti)
    made = Site(tmp_path / "state", tpm)
    install_trust(made.directory, operators, tmp_path / "scratch")
    made.state.identities.save_generation(identity(quiet, machine.ak, machine.node_key))
    made.state.identities.switch_to(1)
    quiet.confirmed = 1
    quiet.say(quiet.lease())
    apply(made.start(), quiet, quiet.statement)
    return made


def install_trust(directory: Path, operators: Answerer, scratch: Path) -> None:
    """Store the operators' trust as an activation does."""
    scratch.mkdir(mode=0o700)
    (directory / "trust").mkdir(mode=0o700, parents=True)
    directory.chmod(0o700)
    pin = operators.repository.pin
    publish(directory / "trust", update_from_files(operators.trust(), URL, pin, {}, scratch, utc_now()))


def activation_file(operators: Answerer, code: str = "") -> tuple[ActivationFile, str]:
    """An activation file of the operators, and the SHA-256 of its bytes."""
    code = code or make_secret("cac", bytes(20))
    file = ActivationFile(ACTIVATION_FILE_FORMAT, URL, operators.repository.pin, code, utc_now())
    return file, sha256_hex(code.encode())
