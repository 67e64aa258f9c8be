"""Helper: machines without a TPM, whose serial numbers are simulated."""

from pathlib import Path

from lab.machine import Machine
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
    """A machine without a TPM. `chip` gives the address of the bus only."""
    machine = Machine(directory, chip, f"machine-{number}", 2, start=hardware(directory, number))
    machine.env |= NO_TPM
    return machine
