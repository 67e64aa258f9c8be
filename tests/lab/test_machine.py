"""`lab.machine`: settings, command line, and the state of the agent: absent, running, ended."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.machine import Machine
from lab.processes import WAIT_SECONDS, StepFailed, ended
from lab.tpm import SoftTpm, shared_bus
from tests.system.support.harness import new_cloud, new_machine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTpm]:
    with SoftTpm(tmp_path_factory.mktemp("chip"), bus=shared_bus()) as started:
        yield started


def test_an_agent_has_paths_of_its_own_and_otherwise_the_defaults(chip: SoftTpm, tmp_path: Path) -> None:
    quick, shipped = Machine(tmp_path, chip, "quick"), Machine(tmp_path, chip, "shipped", heartbeat_seconds=None)
    places = {"state_dir", "socket", "tpm", "mode"}
    assert set(tomllib.loads(Path(shipped.env["CASCADIA_CONFIG"]).read_text())) == places
    settings = tomllib.loads(Path(quick.env["CASCADIA_CONFIG"]).read_text())
    assert set(settings) == places | {"heartbeat_seconds", "settle_seconds"}
    assert settings["heartbeat_seconds"] == 2


def test_a_machine_without_an_agent_gives_no_answer(chip: SoftTpm, tmp_path: Path) -> None:
    machine = new_machine(tmp_path, chip)
    assert machine.ask("/v1/status") is None
    assert not machine.granted()
    assert machine.licence == "no agent"
    assert machine.down() == 0
    machine.kill()


def test_an_activated_machine_answers_and_grants_what_its_licence_names(chip: SoftTpm, tmp_path: Path) -> None:
    cloud, machine = new_cloud(tmp_path).init(), new_machine(tmp_path, chip)
    with ended(cloud, machine):
        cloud.up()
        machine.run("activate", str(cloud.code(cloud.tenant(chip))))
        machine.up()
        assert machine.wait_state("active") < WAIT_SECONDS
        assert machine.granted("vision")
        assert not machine.granted("something-else")
        with pytest.raises(StepFailed, match="cascadia exited 3, not 0"):
            machine.run("entitlement", "something-else")
        assert machine.down() == 0


def test_an_agent_that_ends_is_reported_with_its_log(chip: SoftTpm, tmp_path: Path) -> None:
    machine = new_machine(tmp_path, chip)
    with ended(machine), pytest.raises(StepFailed, match=r"(?s)the agent ended:\n.*not activated"):
        machine.up()
