"""TPM administration with the real commands: one row of each kind. The drill `tpm-administration` has every condition."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.system.support.harness import new_machine
from tests.system.support.tpm_administration import CONDITIONS, RESTART, Condition, Row

BY_NAME = {condition.name: condition for condition in CONDITIONS}
KEY_REFUSED = BY_NAME["owner password, no persistent storage key"]


def row(tmp_path: Path, cloud: Cloud, chip: SoftTpm, condition: Condition) -> Row:
    @contextmanager
    def shared(_: str) -> Iterator[SoftTpm]:
        try:
            yield chip
        finally:
            chip.clear()

    return Row(tmp_path, cloud, cloud.tenant(chip), condition, shared)


def test_an_owner_password_does_not_stop_the_machine_and_its_cure_works(
    tmp_path: Path, cloud: Cloud, chips: tuple[SoftTpm, SoftTpm]
) -> None:
    made = row(tmp_path, cloud, chips[0], KEY_REFUSED)
    made.activated()
    assert made.findings == []
    assert made.results[RESTART] == "open tpm-hierarchy-password"


def test_a_copied_disk_whose_tpm_is_hidden_does_not_run(
    tmp_path: Path, cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm]
) -> None:
    """The copied disk does not have the record of the boot, and the other TPM has another endorsement key."""
    machine.run("activate", str(cloud.code(cloud.tenant(chips[0]))))
    thief = new_machine(tmp_path, chips[1], "thief")
    shutil.copytree(machine.state, thief.state)
    chips[1].administer("tpm2_changeauth", "-c", "owner", "secret")  # the key cannot be asked
    try:
        with ended(thief):
            assert thief.launch().wait() == 87
            chips[1].stop_resource_manager()
            assert thief.launch().wait() == 87
    finally:
        chips[1].restart_resource_manager()
        chips[1].clear()
