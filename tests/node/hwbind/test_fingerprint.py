"""Fingerprint components, read from simulated machines."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from node.hwbind.fingerprint import DISKS_MAX, MACS_MAX, Components, Reasons, _ask_kernel, fingerprint, read_components
from protocol.fingerprint import WEIGHTS, enroll, judge
from protocol.limits import COMPONENTS_MAX

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
            "mac": "b8:2a:72:aa:bb:cc",
        },
        absent=Reasons(),
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


def test_placeholders_never_count(tmp_path: Path) -> None:
    root = build(tmp_path, {"sys/class/dmi/id/board_serial": "Type2 - Board Serial Number\n"})
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
    assert components.values["mac"] == "b8:2a:72:aa:bb:cd"


@pytest.mark.parametrize("assigned", ["1", "2", "3", ""])
def test_an_address_that_is_not_permanent_does_not_count(tmp_path: Path, assigned: str) -> None:
    root = build(tmp_path, {"sys/devices/pci0/net/eno1/addr_assign_type": assigned})
    assert read_components(root, no_udev).absent == {"mac": "its address is not the permanent one"}


def test_the_address_of_a_bonded_card_is_its_own(tmp_path: Path) -> None:
    root = build(
        tmp_path,
        {
            "sys/devices/pci0/net/eno1/addr_assign_type": "3",
            "sys/devices/pci0/net/eno1/bonding_slave/perm_hwaddr": "b8:2a:72:aa:bb:ce\n",
        },
    )
    assert read_components(root, no_udev).values["mac"] == "b8:2a:72:aa:bb:ce"


@pytest.mark.parametrize("value", [b"\xff\xfe\xff\xff\n", b"\xff\xfe\x00AB1\x00", b"AB\x001234", b"AB\x07C1"])
def test_bytes_that_are_no_text_are_no_serial_number(tmp_path: Path, value: bytes) -> None:
    root = build(tmp_path)
    (root / "sys/class/dmi/id/board_serial").write_bytes(value)
    (root / "sys/class/dmi/id/chassis_serial").unlink()
    (root / "sys/class/dmi/id/chassis_serial").mkdir()
    components = read_components(root, lambda device: {"ID_WWN": "0x5000\udcff", "ID_SERIAL_SHORT": "S\udcff1"})
    assert components.absent == {
        "board_serial": "its value is not text",
        "chassis_serial": "cannot read: Is a directory",
    }
    assert components.values["disk_serial"] == "S3Z8NB0K123456"
    assert fingerprint(SALT, components).keys() == components.values.keys()


def test_a_router_sends_some_of_its_cards(tmp_path: Path) -> None:
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
    assert len([name for name in components.values if name.startswith("mac")]) == MACS_MAX
    assert components.values["mac"] == "b8:2a:72:aa:bb:cc"
    assert components.values["mac/2"] == "b8:2a:72:00:01:27"


def test_all_kinds_fit_into_one_message() -> None:
    assert len(WEIGHTS) - 3 + 2 * DISKS_MAX + MACS_MAX <= COMPONENTS_MAX


DISK = "sys/devices/pci0/block/sda"
DISK_TABLE: list[tuple[str, Mapping[str, str], Mapping[str, str | bytes], str | None, str | None]] = [
    ("a SATA disk", {"ID_BUS": "ata", "ID_SERIAL_SHORT": "WD-WCC4E1234567", "ID_WWN": "0x50014ee2b1234567"}, {},
     "WD-WCC4E1234567", "0x50014ee2b1234567"),
    ("a SATA disk before udev is ready", {}, {"device/vpd_pg80": b"\0\x80\0\x14     WD-WCC4E1234567", "device/wwid": "naa.50014ee2b1234567"},
     "WD-WCC4E1234567", "naa.50014ee2b1234567"),
    ("a SAS disk", {"ID_BUS": "scsi", "ID_SERIAL_SHORT": "35000c500a1b2c3d4", "ID_SCSI_SERIAL": "Z1X2Y3W4"}, {}, "Z1X2Y3W4", None),
    ("a SAS disk before udev is ready", {}, {"device/vpd_pg80": b"\0\x80\0\x08Z1X2Y3W4"}, "Z1X2Y3W4", None),
    ("a disk behind a USB bridge", {"ID_BUS": "usb", "ID_SERIAL_SHORT": "DD564198838A1", "ID_SCSI_SERIAL": "WD-WCC4E1234567"}, {},
     "WD-WCC4E1234567", None),
    ("a USB stick", {"ID_BUS": "usb", "ID_SERIAL_SHORT": "4C530001230917"}, {}, "4C530001230917", None),
    ("a USB bridge without any serial number", {"ID_BUS": "usb", "ID_SERIAL_SHORT": "0123456789ABCDEF"}, {}, None, None),
    ("a volume of an array", {"ID_WWN": "0x600508b1001c0000", "ID_WWN_WITH_EXTENSION": "0x600508b1001c2ad5b2a7c0ffee000001"}, {},
     None, "0x600508b1001c2ad5b2a7c0ffee000001"),
    ("a volume of an array, half named", {"ID_WWN": "0x600508b1001c0000"}, {"device/wwid": "naa.600508b1001c2ad5b2a7c0ffee000001"},
     None, "naa.600508b1001c2ad5b2a7c0ffee000001"),
    ("an NVMe disk", {}, {"device/serial": "S5GXNX0R123456A     ", "wwid": "eui.002538b301b0a1b2"}, "S5GXNX0R123456A", "eui.002538b301b0a1b2"),
    ("an eMMC", {}, {"device/cid": "150100444a4e4234520709a1b2c3d400", "device/serial": "0x09a1b2c3"}, "150100444a4e4234520709a1b2c3d400", None),
    ("an eMMC without a serial number", {}, {"device/cid": "150100444a4e423452070000000000d4", "device/serial": "0x00000000"}, None, None),
    ("a virtio disk", {}, {"serial": "3f1c9a70-55d2-4b6e-8"}, "3f1c9a70-55d2-4b6e-8", None),
    ("a virtual disk that is only counted", {"ID_SERIAL_SHORT": "QM00001"}, {}, None, None),
    ("a disk with empty names", {"ID_WWN": "0x0000000000000000"}, {"device/wwid": "naa.0000000000000000", "serial": "\n"}, None, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("properties", "files", "serial", "wwn"), [row[1:] for row in DISK_TABLE], ids=[row[0] for row in DISK_TABLE]
)
def test_what_identifies_a_disk(
    tmp_path: Path, properties: Mapping[str, str], files: Mapping[str, str | bytes], serial: str | None, wwn: str | None
) -> None:
    root = build(tmp_path, {f"{DISK}/device/serial": None, f"{DISK}/device/wwid": None})
    for name, content in files.items():
        (root / DISK / name).parent.mkdir(exist_ok=True)
        (root / DISK / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    components = read_components(root, lambda device: properties if device.name == "sda" else {})
    assert (components.values.get("disk_serial"), components.values.get("disk_wwn")) == (serial, wwn)


UNREADABLE_TABLE: list[tuple[str, Mapping[str, str | None], Mapping[str, str] | None, set[str]]] = [
    ("a complete reading", {}, {}, set()),
    ("a value that the machine does not have", {"sys/class/dmi/id/board_serial": None}, {}, set()),
    ("a placeholder", {"sys/class/dmi/id/board_serial": "Default string"}, {}, set()),
    ("a file that cannot be read", {"sys/class/dmi/id/board_serial": None, "sys/class/dmi/id/board_serial/x": ""}, {},
     {"board_serial"}),
    ("devices that udev has not processed yet", {}, None, {"disk_serial", "disk_wwn", "mac"}),
    ("a disk whose serial number only udev knows", {"sys/devices/pci0/block/sda/device/serial": None}, None,
     {"disk_serial", "disk_wwn", "mac"}),
    ("a card without a file", {"sys/devices/pci0/net/eno1/addr_assign_type": None}, {}, set()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "properties", "unreadable"), [row[1:] for row in UNREADABLE_TABLE], ids=[r[0] for r in UNREADABLE_TABLE]
)
def test_which_kinds_a_reading_decides_nothing_about(
    tmp_path: Path, changes: Mapping[str, str | None], properties: Mapping[str, str] | None, unreadable: set[str]
) -> None:
    assert read_components(build(tmp_path, changes), lambda device: properties).unreadable == unreadable


def test_a_slow_udev_is_no_other_machine(tmp_path: Path) -> None:
    """A USB disk has its own serial number in udev only. A reading before udev has processed it decides nothing."""
    dmi = {f"sys/class/dmi/id/{name}": None for name in ("board_serial", "chassis_serial")}
    usb = {**dmi, "sys/devices/pci0/block/sda/device/serial": None, "sys/devices/pci0/block/sda/device/wwid": None}
    root = build(tmp_path, usb)
    known = {"ID_SCSI_SERIAL": "WD-WCC4E1234567", "ID_WWN": "0x50014ee2b1234567"}

    def read(properties: Mapping[str, str] | None) -> Components:
        return read_components(root, lambda device: properties if device.name == "sda" else {})

    (root / "sys/class/dmi/id/product_uuid").unlink()
    policy = enroll(fingerprint(SALT, read(known)))
    results = []
    for properties in (known, None, {}):
        found = read(properties)
        results.append(judge(policy, fingerprint(SALT, found), found.unreadable).result)
    assert results == ["match", "inconclusive", "mismatch"]


CARD = "sys/devices/pci0/net/eno1"
CARD_TABLE: list[tuple[str, Mapping[str, str | None], str | None]] = [
    ("a card", {}, "b8:2a:72:aa:bb:cc"),
    ("an address of an administrator", {f"{CARD}/addr_assign_type": "3"}, None),
    ("a random address of the kernel", {f"{CARD}/addr_assign_type": "1"}, None),
    ("a tethered phone or a dock", {f"{CARD}/address": "02:00:00:00:00:01"}, None),
    ("a virtual machine's card", {f"{CARD}/address": "52:54:00:6b:3c:58"}, None),
    ("a group address", {f"{CARD}/address": "01:00:5e:6b:3c:58"}, None),
    ("an address of zeros", {f"{CARD}/address": "00:00:00:00:00:00"}, None),
    ("a card with the address of an example", {f"{CARD}/address": "00:11:22:33:44:55"}, None),
    ("not an address", {f"{CARD}/address": "b8:2a:72"}, None),
    ("InfiniBand", {f"{CARD}/type": "32"}, None),
    ("a bridge, bond, VLAN, veth or tunnel", {f"{CARD}/device/vendor": None}, None),
    ("a virtual function of a card", {f"{CARD}/device/physfn/vendor": "0x8086"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "address"), [row[1:] for row in CARD_TABLE], ids=[row[0] for row in CARD_TABLE])
def test_which_address_is_a_cards_own(tmp_path: Path, changes: Mapping[str, str | None], address: str | None) -> None:
    assert read_components(build(tmp_path, changes), no_udev).values.get("mac") == address


def test_a_renamed_card_is_the_same_component(tmp_path: Path) -> None:
    links = {"sys/class/net/eth0": "../../devices/pci0/net/eno1"}
    one = read_components(build(tmp_path / "before"), no_udev)
    two = read_components(build(tmp_path / "after", {}, links), no_udev)
    assert fingerprint(SALT, one) == fingerprint(SALT, two)


def test_the_kernel_knows_the_permanent_address_best(tmp_path: Path) -> None:
    """An administrator or a randomising network manager set another one."""
    root = build(tmp_path, {f"{CARD}/addr_assign_type": "3", f"{CARD}/address": "b8:2a:72:00:00:99"})
    answers = {"eno1": "b8:2a:72:aa:bb:cc"}
    assert read_components(root, no_udev, lambda name: answers.get(name, "")).values["mac"] == "b8:2a:72:aa:bb:cc"
    assert read_components(root, no_udev, lambda name: "00:00:00:00:00:00").absent["mac"] == (
        "its address is not the permanent one"
    )


def test_the_kernel_is_asked_about_this_machines_cards() -> None:
    """The loopback interface has no permanent address, and an unknown interface no answer."""
    assert _ask_kernel("lo") in ("", "00:00:00:00:00:00")
    assert _ask_kernel("no-such-card") == ""


def test_the_sent_fingerprint_names_components_and_hides_values(tmp_path: Path) -> None:
    components = read_components(build(tmp_path), no_udev)
    sent = fingerprint(SALT, components)
    assert sent.keys() == components.values.keys()
    assert sent != fingerprint(b"t" * 32, components)
    for value in components.values.values():
        assert value not in str(sent)
        assert value not in repr(components)
