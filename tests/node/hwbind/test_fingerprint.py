"""Fingerprint components, read from simulated machines."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from node.hwbind.fingerprint import MACS_MAX, Components, fingerprint, read_components

SALT = b"s" * 32
MACHINE = {
    "sys/class/dmi/id/product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432\n",
    "sys/class/dmi/id/board_serial": ".5Q5RVD2.CNFCP0096L00DE.\n",
    "sys/class/dmi/id/chassis_serial": "5Q5RVD2\n",
    "sys/devices/pci0/block/sda/device/wwid": "naa.5000c500a1b2c3d4\n",
    "sys/devices/pci0/block/sda/device/serial": "S3Z8NB0K123456\n",
    "sys/devices/pci0/block/sda/sda2/partition": "2\n",
    "sys/devices/pci0/net/eno1/device/vendor": "0x8086\n",
    "sys/devices/pci0/net/eno1/type": "1\n",
    "sys/devices/pci0/net/eno1/addr_assign_type": "0\n",
    "sys/devices/pci0/net/eno1/address": "b8:2a:72:aa:bb:cc\n",
    "sys/devices/virtual/net/br0/type": "1\n",
    "sys/devices/virtual/net/br0/address": "b8:2a:72:aa:bb:cc\n",
    "proc/self/mountinfo": "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n",
}
LINKS = {
    "sys/dev/block/8:2": "../../devices/pci0/block/sda/sda2",
    "sys/class/net/eno1": "../../devices/pci0/net/eno1",
    "sys/class/net/br0": "../../devices/virtual/net/br0",
}


def no_udev(device: Path) -> Mapping[str, str]:
    return {}


def build(root: Path, changes: Mapping[str, str | None] | None = None, links: Mapping[str, str] | None = None) -> Path:
    """A simulated machine under `root`. A change to None leaves the file out."""
    for name, text in {**MACHINE, **(changes or {})}.items():
        if text is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name, target in {**LINKS, **(links or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return root


def test_a_whole_machine(tmp_path: Path) -> None:
    assert read_components(build(tmp_path), no_udev) == Components(
        values={
            "product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432",
            "board_serial": ".5Q5RVD2.CNFCP0096L00DE.",
            "chassis_serial": "5Q5RVD2",
            "disk_serial": "S3Z8NB0K123456",
            "disk_wwn": "naa.5000c500a1b2c3d4",
            "mac/eno1": "b8:2a:72:aa:bb:cc",
        },
        absent={},
    )


def test_a_machine_with_nothing(tmp_path: Path) -> None:
    components = read_components(tmp_path, no_udev)
    assert components.values == {}
    assert components.absent == {
        "product_uuid": "the kernel does not report it",
        "board_serial": "the kernel does not report it",
        "chassis_serial": "the kernel does not report it",
        "disk_serial": "the root file system is on no disk",
        "disk_wwn": "the root file system is on no disk",
        "mac": "no network card",
    }


def test_this_machine_does_not_fail() -> None:
    components = read_components()
    assert set(components.values).isdisjoint(components.absent)
    assert fingerprint(SALT, components).keys() == components.values.keys()


@pytest.mark.parametrize(
    "placeholder",
    [
        "",
        " ",
        "Default string",
        "To Be Filled By O.E.M.",
        "System Serial Number",
        "Not Specified",
        "None",
        "N/A",
        "0",
        "00000000",
        "0000-0000",
        "FFFFFFFF",
        "xxxxxxxx",
        "........",
        "123456789",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
    ],
)
def test_placeholders_never_count(tmp_path: Path, placeholder: str) -> None:
    root = build(tmp_path, {"sys/class/dmi/id/board_serial": f"{placeholder}\n"})
    components = read_components(root, no_udev)
    assert "board_serial" not in components.values
    assert components.absent == {"board_serial": "the manufacturer left a placeholder"}


def test_udev_knows_better(tmp_path: Path) -> None:
    properties = {
        "sda": {"ID_SERIAL_SHORT": "UDEV-SERIAL", "ID_WWN_WITH_EXTENSION": "0x5000c500a1b2c3d4"},
        "eno1": {"ID_NET_NAME_MAC": "enxb82a72aabbcd"},
    }
    components = read_components(build(tmp_path), lambda device: properties.get(device.name, {}))
    assert components.values["disk_serial"] == "UDEV-SERIAL"
    assert components.values["disk_wwn"] == "0x5000c500a1b2c3d4"
    assert components.values["mac/eno1"] == "b8:2a:72:aa:bb:cd"


@pytest.mark.parametrize("assigned", ["1", "2", "3", ""])
def test_an_address_that_is_not_permanent_does_not_count(tmp_path: Path, assigned: str) -> None:
    root = build(tmp_path, {"sys/devices/pci0/net/eno1/addr_assign_type": assigned})
    assert read_components(root, no_udev).absent == {"mac/eno1": "its address is not the permanent one"}


def test_the_address_of_a_bonded_card_is_its_own(tmp_path: Path) -> None:
    root = build(
        tmp_path,
        {
            "sys/devices/pci0/net/eno1/addr_assign_type": "3",
            "sys/devices/pci0/net/eno1/bonding_slave/perm_hwaddr": "b8:2a:72:aa:bb:ce\n",
        },
    )
    assert read_components(root, no_udev).values["mac/eno1"] == "b8:2a:72:aa:bb:ce"


def test_the_disks_under_an_encrypted_mirror(tmp_path: Path) -> None:
    """`/` is on dm-0 (LUKS), on md0 (RAID 1), on sda2 and sdb2. The lower serial counts."""
    root = build(
        tmp_path,
        {
            "sys/devices/virtual/block/dm-0/size": "1",
            "sys/devices/virtual/block/dm-0/slaves/.keep": None,
            "sys/devices/virtual/block/md0/size": "1",
            "sys/devices/pci0/block/sdb/device/serial": "A-SECOND\n",
            "sys/devices/pci0/block/sdb/sdb2/partition": "2\n",
            "proc/self/mountinfo": "22 1 254:0 / / rw - ext4 /dev/mapper/root rw\n",
        },
        {
            "sys/dev/block/254:0": "../../devices/virtual/block/dm-0",
            "sys/devices/virtual/block/dm-0/slaves/md0": "../../md0",
            "sys/devices/virtual/block/md0/slaves/sda2": "../../../../pci0/block/sda/sda2",
            "sys/devices/virtual/block/md0/slaves/sdb2": "../../../../pci0/block/sdb/sdb2",
        },
    )
    assert read_components(root, no_udev).values["disk_serial"] == "A-SECOND"


def test_a_root_file_system_without_a_device_number(tmp_path: Path) -> None:
    root = build(
        tmp_path,
        {"proc/self/mountinfo": "22 1 0:31 /@ / rw - btrfs /dev/sda2 rw\n"},
        {"sys/class/block/sda2": "../../devices/pci0/block/sda/sda2"},
    )
    assert read_components(root, no_udev).values["disk_serial"] == "S3Z8NB0K123456"


@pytest.mark.parametrize(
    "mountinfo",
    [
        "",
        "garbage\n",
        "22 1 0:31 / / rw - overlay overlay rw\n",
        "22 1 8:9 / / rw - ext4 /dev/sdz9 rw\n",
        "22 1 8:2 / / rw shared:1\n",
        "22 1 ../../.. / / rw - ext4 /dev/../.. rw\n",
    ],
)
def test_a_root_file_system_on_no_disk(tmp_path: Path, mountinfo: str) -> None:
    root = build(tmp_path, {"proc/self/mountinfo": mountinfo})
    components = read_components(root, no_udev)
    assert components.absent.keys() == {"disk_serial", "disk_wwn"}


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "sys/class/dmi/id/board_serial").write_bytes(b"\xff\xfe\x00AB1\x00")
    (root / "sys/class/dmi/id/chassis_serial").unlink()
    (root / "sys/class/dmi/id/chassis_serial").mkdir()
    components = read_components(root, no_udev)
    assert "board_serial" in components.values
    assert components.absent == {"chassis_serial": "cannot read: Is a directory"}


def test_a_router_names_the_first_cards_only(tmp_path: Path) -> None:
    changes: dict[str, str | None] = {}
    links = {}
    for number in range(40):
        card = f"sys/devices/pci1/net/port{number:02}"
        changes |= {
            f"{card}/device/vendor": "0x8086",
            f"{card}/type": "1",
            f"{card}/addr_assign_type": "0",
            f"{card}/address": f"b8:2a:72:00:01:{number:02x}",
        }
        links[f"sys/class/net/port{number:02}"] = f"../../devices/pci1/net/port{number:02}"
    components = read_components(build(tmp_path, changes, links), no_udev)
    assert len([name for name in components.values if name.startswith("mac/")]) == MACS_MAX


def test_the_sent_fingerprint_names_components_and_hides_values(tmp_path: Path) -> None:
    components = read_components(build(tmp_path), no_udev)
    sent = fingerprint(SALT, components)
    assert sent.keys() == components.values.keys()
    assert sent != fingerprint(b"t" * 32, components)
    for value in components.values.values():
        assert value not in str(sent)
        assert value not in repr(components)
