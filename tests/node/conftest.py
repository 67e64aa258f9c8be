"""Fixtures of the agent's tests: a software TPM with a node's keys, and a simulated cloud."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trio

from lab.tpm import SoftTpm
from node.hwbind import keys
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from node.state import State
from tests.node.shells import VERSION, Refreshes, forget_floors, install, trust_of
from tests.shared_chips import shared_chip
from tests.simulators.fabric import Fabric


class Machine(NamedTuple):
    """A software TPM, and an AK and a node key that it made."""

    chip: SoftTpm
    ak: WrappedKey
    node_key: WrappedKey


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One chip for all tests. A test leaves it running and thawed, and does not clear it."""
    with shared_chip(tmp_path_factory, tmp_path_factory.mktemp("machine") / "chip") as chip:
        port = Tpm(chip.tcti)
        yield Machine(chip, port.call(keys.create_ak), port.call(keys.create_node_key))
        port.close()


@pytest.fixture
def tpm(machine: Machine) -> Iterator[Tpm]:
    port = Tpm(machine.chip.tcti, command_seconds_max=10.0)
    yield port
    port.close()


@pytest.fixture
def refreshes(monkeypatch: pytest.MonkeyPatch, fabric: Fabric) -> Refreshes:
    """Every refresh of the trust gives a newer version of the same trust."""
    answers = Refreshes(lambda: msgspec.structs.replace(trust_of(fabric), version=VERSION + 1))
    monkeypatch.setattr("node.trust.published.refresh", answers.refresh)
    return answers


@pytest.fixture
async def fabric(nursery: trio.Nursery) -> Fabric:
    """A cloud that serves in the test's own loop."""
    cloud = Fabric()
    await nursery.start(cloud.serve)
    return cloud


@pytest.fixture
def state(tmp_path: Path, fabric: Fabric, machine: Machine) -> State:
    """The state directory of a machine that was activated at the cloud. Its chip has no floor counter yet."""
    forget_floors(machine.chip.tcti)
    return install(tmp_path / "state", fabric, machine.ak, machine.node_key)
