"""Recovery with the real commands: what the person at the machine sees, and what the operator does."""

from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.system.support.harness import new_machine

WAITS, OTHER_TPM = 88, 84


@pytest.mark.long(6.0, "recovery")
def test_a_cleared_chip_is_the_same_node_in_the_same_seat(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    """The second chip: the situations of other tests are on the first one."""
    chip = chips[1]
    tenant = cloud.tenant(chip)
    machine = new_machine(tmp_path, chip)
    with ended(machine):
        machine.run("activate", str(cloud.code(tenant, "--seats", "1")))
        before = machine.run("recover")
        node = before["license"]["node"]
        assert (before["outcome"], before["found"]["tpm"]) == ("not_needed", "same")
        chip.clear()
        # Without a code the case waits for a person, who issues a code.
        waits = machine.run("recover", "--no-wait", expect=WAITS)
        assert (waits["outcome"], waits["found"]["tpm"], waits["found"]["node"]) == (
            "recovery_pending",
            "cleared",
            node,
        )
        case = waits["case"]["case"]
        assert waits["sentence"].startswith(f"Recovery {case} of node {node} waits for an operator's approval or a ")
        status = machine.run("status", expect=OTHER_TPM)
        assert case in next(each["text"] for each in status["conditions"] if each["code"] == "recovery_pending")
        # The agent owns the state while it runs, and asks again by itself.
        machine.launch()
        machine.wait_state("hardware-mismatch")
        assert machine.run("recover", expect=WAITS)["outcome"] == "recovery_pending"
        machine.down()
        cloud.run("recovery", "approve", case, "--reason", "seen on site")
        after = machine.run("recover")
        assert after["outcome"] == "recovered"
        assert after["sentence"].startswith(f"This machine is node {node} again, licensed until ")
        assert (after["license"]["node"], after["license"]["generation"]) == (node, 2)
        machine.up()
        assert machine.granted()
    assert [code["seats_taken"] for code in cloud.run("code", "list", tenant)] == [1]
    assert cloud.run("recovery", "show", case)["state"] == "consumed"
    assert [each["id"] for each in cloud.run("node", "list")] == [node]
