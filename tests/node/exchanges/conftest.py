"""Fixtures: an activated state directory, and the contacts of its agent."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.exchanges.contact import Contact
from node.hwbind.tpm import Tpm
from node.state import State
from tests.node.conftest import Machine
from tests.node.shells import contact_of, install
from tests.simulators.fabric import Fabric


@pytest.fixture
def state(tmp_path: Path, fabric: Fabric, machine: Machine) -> State:
    return install(tmp_path / "state", fabric, machine.ak, machine.node_key)


@pytest.fixture
async def contact(state: State, tpm: Tpm) -> AsyncIterator[Contact]:
    made = contact_of(state, tpm)
    made._hardware.report_ours()
    yield made
    await made.connection.close()
