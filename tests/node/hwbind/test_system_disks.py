"""The disks under the root file system: one simulated machine for each stack of layers."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from node.hwbind.system_disks import system_disks

ON_SDA2 = "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n"


class Machine:
    """A /sys and a /proc in which block devices can be stacked."""

    def __init__(self, root: Path, mountinfo: str | bytes) -> None:
        self.root = root
        self._write("proc/self/mountinfo", mountinfo)

    def _write(self, path: str, content: str | bytes) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def _link(self, path: str, target: str) -> None:
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(self.root / target)

    def add(self, name: str, number: str, under: tuple[str, ...] = (), image: str = "") -> None:
        """A whole device (sda, md0, dm-0, loop0), the devices that it is made of, and the image file in it."""
        folder = f"sys/devices/block/{name}"
        self._write(f"{folder}/size", "1")
        self._link(f"sys/dev/block/{number}", folder)
        self._link(f"sys/class/block/{name}", folder)
        for each in under:
            self._link(f"{folder}/slaves/{each}", f"sys/class/block/{each}")
        if image:
            self._write(f"{folder}/loop/backing_file", f"{image}\n")

    def add_partition(self, disk: str, name: str, number: str) -> None:
        folder = f"sys/devices/block/{disk}/{name}"
        self._write(f"{folder}/partition", "1")
        self._link(f"sys/dev/block/{number}", folder)
        self._link(f"sys/class/block/{name}", folder)

    def add_disks(self) -> None:
        self.add("sda", "8:0")
        self.add_partition("sda", "sda2", "8:2")
        self.add("sdb", "8:16")
        self.add_partition("sdb", "sdb2", "8:18")

    def add_btrfs(self, *members: str) -> None:
        for each in members:
            self._link(f"sys/fs/btrfs/0b0a/devices/{each}", f"sys/class/block/{each}")

    def disks(self) -> list[str]:
        return [disk.name for disk in system_disks(self.root)]


PLAIN: Mapping[str, tuple[str | bytes, list[str]]] = {
    "a partition": (ON_SDA2, ["sda"]),
    "a whole disk": ("22 1 8:16 / / rw - ext4 /dev/sdb rw\n", ["sdb"]),
    "the last mount of two": (ON_SDA2 + "30 22 8:18 / / rw - ext4 /dev/sdb2 rw\n", ["sdb"]),
    "another mount is not asked": (ON_SDA2 + "30 22 8:18 / /srv rw - ext4 /dev/sdb2 rw\n", ["sda"]),
    "btrfs, whose number is no device": ("22 1 0:31 /@ / rw - btrfs /dev/sda2 rw,subvol=/@\n", ["sda"]),
    "bcachefs on two": ("22 1 0:31 / / rw - bcachefs /dev/sda2:/dev/sdb2 rw\n", ["sda", "sdb"]),
    "an overlay of a read-only root": (
        (
            "22 1 0:22 / / rw - overlay overlay rw,lowerdir=/ro,upperdir=/rw/up,workdir=/rw/work\n"
            "30 22 8:2 / /ro ro - ext4 /dev/sda2 ro\n31 22 0:9 / /rw rw - tmpfs tmpfs rw\n"
        ),
        ["sda"],
    ),
    "an overlay of several lower layers": (
        (
            "22 1 0:22 / / rw - overlay overlay rw,lowerdir=/a\\134:b:/ro,upperdir=/rw/up\n"
            "30 22 8:2 / /ro ro - ext4 /dev/sda2 ro\n31 22 8:18 / /a:b ro - ext4 /dev/sdb2 ro\n"
        ),
        ["sda", "sdb"],
    ),
    "an overlay with each layer in an option": (
        (
            "22 1 0:22 / / rw - overlay overlay rw,lowerdir+=/ro,lowerdir+=/b\\040c\n"
            "30 22 8:2 / /ro ro - ext4 /dev/sda2 ro\n31 22 8:18 / /b\\040c ro - ext4 /dev/sdb2 ro\n"
        ),
        ["sda", "sdb"],
    ),
    "an overlay with its upper layer on the disk": (
        (
            "22 1 0:22 / / rw - overlay overlay rw,lowerdir=/net,upperdir=/rw/up\n"
            "30 22 0:50 / /net ro - nfs 10.0.0.1:/image ro\n31 22 8:2 / /rw rw - ext4 /dev/sda2 rw\n"
        ),
        ["sda"],
    ),
    "an overlay over an overlay": (
        (
            "22 1 0:22 / / rw - overlay overlay rw,lowerdir=/mid/x\n"
            "30 22 0:23 / /mid rw - overlay overlay rw,lowerdir=/ro\n31 22 8:2 / /ro ro - ext4 /dev/sda2 ro\n"
        ),
        ["sda"],
    ),
    "names that are no UTF-8": (b"22 1 0:7 / /\xff rw - tmpfs \xfe rw\n" + ON_SDA2.encode(), ["sda"]),
    "an empty table": ("", []),
    "no table": ("garbage\n", []),
    "an overlay that names no layer": ("22 1 0:31 / / rw - overlay overlay rw\n", []),
    "an overlay of itself": ("22 1 0:31 / / rw - overlay overlay rw,lowerdir=/,upperdir=/\n", []),
    "a disk that is gone": ("22 1 8:9 / / rw - ext4 /dev/sdz9 rw\n", []),
    "a line that is cut": ("22 1 8:2 / / rw shared:1\n", []),
    "a number that is a path": ("22 1 ../../.. / / rw - ext4 /dev/../.. rw\n", []),
    "the network": ("22 1 0:31 / / rw - nfs 10.0.0.1:/root rw\n", []),
    "memory": ("22 1 0:31 / / rw - tmpfs tmpfs rw\n", []),
}


@pytest.mark.parametrize("layers", PLAIN)
def test_the_disk_of_a_mount(tmp_path: Path, layers: str) -> None:
    mountinfo, disks = PLAIN[layers]
    machine = Machine(tmp_path, mountinfo)
    machine.add_disks()
    assert machine.disks() == disks


def test_no_proc_and_no_sys(tmp_path: Path) -> None:
    assert system_disks(tmp_path) == []


def test_every_disk_of_an_encrypted_mirror(tmp_path: Path) -> None:
    """LVM on LUKS on RAID 1."""
    machine = Machine(tmp_path, "22 1 254:1 / / rw - ext4 /dev/mapper/vg-root rw\n")
    machine.add_disks()
    machine.add("md0", "9:0", under=("sda2", "sdb2"))
    machine.add("dm-0", "254:0", under=("md0",))
    machine.add("dm-1", "254:1", under=("dm-0",))
    assert machine.disks() == ["sda", "sdb"]


def test_two_paths_to_one_disk_and_a_partition_of_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "22 1 254:1 / / rw - ext4 /dev/mapper/mpatha-part1 rw\n")
    machine.add_disks()
    machine.add("dm-0", "254:0", under=("sda", "sdb"))
    machine.add("dm-1", "254:1", under=("dm-0",))
    assert machine.disks() == ["sda", "sdb"]


def test_every_disk_of_a_btrfs(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "22 1 0:31 /@ / rw - btrfs /dev/sdb2 rw\n")
    machine.add_disks()
    machine.add_btrfs("sda2", "sdb2")
    assert machine.disks() == ["sda", "sdb"]


def test_a_live_image_on_a_loop_device(tmp_path: Path) -> None:
    machine = Machine(
        tmp_path,
        "22 1 0:22 / / rw - overlay overlay rw,lowerdir=/rofs,upperdir=/cow/up\n"
        "30 22 7:0 / /rofs ro - squashfs /dev/loop0 ro\n31 22 8:2 / /cdrom ro - iso9660 /dev/sda2 ro\n",
    )
    machine.add_disks()
    machine.add("loop0", "7:0", image="/cdrom/casper/filesystem.squashfs")
    assert machine.disks() == ["sda"]


def test_a_circle_of_devices_ends(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "22 1 254:0 / / rw - ext4 /dev/dm-0 rw\n")
    machine.add_disks()
    machine.add("dm-0", "254:0", under=("dm-1", "sda"))
    machine.add("dm-1", "254:1", under=("dm-0",))
    machine.add("loop0", "7:0", image="/root.img")
    assert machine.disks() == ["sda"]


def test_a_member_that_is_gone_is_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "22 1 9:0 / / rw - ext4 /dev/md0 rw\n")
    machine.add_disks()
    machine.add("md0", "9:0", under=("sda2", "sdc2"))
    assert machine.disks() == ["sda"]
