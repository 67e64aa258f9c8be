"""The state directory: which generation a start uses, and which damage stops the start."""

import shutil
from pathlib import Path

import msgspec
import pytest

from node.errors import NodeError, StateDamaged
from node.hwbind import keys
from node.hwbind.tpm import Tpm
from node.state import NotActivated, State
from tests.node.conftest import Machine
from tests.node.shells import apply, identity, install, load_licence
from tests.simulators.fabric import Fabric


@pytest.fixture
def state(tmp_path: Path, fabric: Fabric, machine: Machine) -> State:
    return install(tmp_path / "state", fabric, machine.ak, machine.node_key)


async def test_another_key_beside_the_certificate_is_found(
    fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    """This TPM can load the key, but the certificate is for another key. The start refuses it."""
    stored = state.identities.load(1)
    stranger = await tpm.run(keys.create_node_key)
    shutil.rmtree(state.identities.generation_dir(1))
    (state.directory / "current.json").unlink()
    state.identities.save_generation(msgspec.structs.replace(stored, node_key=stranger))
    state.identities.switch_to(1)
    with pytest.raises(StateDamaged, match="not the certificate of this node"):
        load_licence(state)


def test_nothing_to_run_as(tmp_path: Path) -> None:
    with pytest.raises(NotActivated) as caught:
        load_licence(State(tmp_path))
    assert isinstance(caught.value, NodeError)


async def test_a_pending_generation_replaces_a_revoked_one(fabric: Fabric, state: State, machine: Machine) -> None:
    apply(load_licence(state), fabric, fabric.revocation())
    assert load_licence(state).revoked
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    licence = load_licence(state)
    assert (licence.identity.generation, licence.confirmed, licence.verdict().state) == (2, False, "pending")
