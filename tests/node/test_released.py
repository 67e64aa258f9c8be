"""The state of each release: today's agent takes it for what it was, without the cloud."""

from pathlib import Path

import pytest

from lab.tpm import SoftTpm, shared_bus
from node.disk.version import STATE_VERSION, version_of
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.local.documents import entitlement_document
from node.state import State
from tests.released.unpack import RELEASES, unpack


def test_there_is_a_state_to_upgrade_from() -> None:
    assert "0.1.0-2dd8eec" in RELEASES


@pytest.mark.parametrize("release", RELEASES)
async def test_the_state_of_a_release_is_active_and_its_floors_fit(tmp_path: Path, release: str) -> None:
    found = unpack(release, tmp_path)
    state = State(tmp_path / "machine" / "state", lambda: found.made_at)
    with SoftTpm(tmp_path / "chip", bus=shared_bus()) as chip, state.owned():
        tpm = Tpm(chip.tcti)
        licence = state.load_licence(HardwareCheck(tpm, None, state.conditions), machine_clocks(lambda: found.made_at))
        await licence.check_hardware()
        shown = licence.snapshot()
        await tpm.aclose()
    assert (shown.verdict.state, shown.verdict.gate_open, shown.hardware) == ("active", True, "ours")
    assert (shown.holder.node, shown.holder.generation) == (found.node, found.generation)
    assert shown.lease is not None
    vision = entitlement_document(shown, "vision")
    assert (shown.lease.seq, vision.granted, vision.limit) == (found.seq, True, 2)
    assert (shown.floor.record_state, state.floors.fits) == ("current", True)
    assert state.conditions.current() == ()
    assert version_of(state.directory) == STATE_VERSION, "the state has the version of this agent from now on"
