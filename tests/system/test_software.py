"""A machine without a TPM, with the real commands: activation, a start, and a copy of its disk on another machine."""

import shutil
from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.system.support.harness import Plan

NO_TPM = {"CASCADIA_TPM": "device:/nonexistent/tpmrm0"}


def hardware(directory: Path, number: int) -> Plan:
    """The processes of a machine whose serial numbers end with `number`."""
    files = {
        "sys/class/dmi/id/product_uuid": f"4c4c4544-0051-3510-8052-b4c04f56443{number}",
        "sys/class/dmi/id/board_serial": f"CNFCP0096L00D{number}",
        "sys/devices/pci0/block/sda/device/serial": f"S3Z8NB0K12345{number}",
        "sys/devices/pci0/block/sda/sda2/partition": "2",
        "proc/self/mountinfo": "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n",
    }
    root = directory / f"hardware-{number}"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    link = root / "sys/dev/block/8:2"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../devices/pci0/block/sda/sda2")
    return Plan(hardware=str(root))


def without_tpm(directory: Path, chip: SoftTpm, number: int) -> Machine:
    machine = Machine(directory, chip, f"machine-{number}", 2, start=hardware(directory, number))
    machine.env |= NO_TPM
    return machine


@pytest.mark.slow
def test_a_machine_without_a_tpm_and_a_copy_of_its_disk(
    cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    file = str(cloud.code(tenant))
    machine, other = (without_tpm(tmp_path, chips[0], number) for number in (1, 2))
    with ended(machine, other):
        assert machine.run("activate", file, expect=87)["error"]["code"] == "tpm-absent"
        assert machine.run("activate", file, "--software", expect=77)["error"]["code"] == "tier_refused"
        cloud.run("tenant", "tiers", tenant, "attested,software")
        licence = machine.run("activate", file, "--software")
        assert (licence["state"], licence["lease"]["tier"]) == ("active", "software")
        machine.up()
        machine.wait_state("active")
        assert machine.granted()
        status = machine.run("status")
        assert status["fingerprint"]["result"] == "match"
        assert "no hardware floor" in status["limits"]
        machine.down()
        # The disk is copied to another machine; the cloud is away at first.
        cloud.down()
        shutil.copytree(machine.state, other.state)
        other.up()
        other.wait_state("hardware-mismatch")
        assert not other.granted()
        status = other.run("status", expect=84)
        assert status["license"]["gate"] == "closed"
        assert [condition["code"] for condition in status["conditions"]] == ["fingerprint_mismatch"]
        cloud.up()
        failure = other.run("renew", expect=77)["error"]
        assert failure["code"] == "fingerprint_refused"
        assert not other.granted()
        machine.up()
        assert machine.granted()
        (node,) = cloud.run("node", "list", "--tenant", tenant)
        assert (node["tier"], node["standing"]) == ("software", "active")
        # The copied disk activates on its machine: not the same machine, so a person must decide.
