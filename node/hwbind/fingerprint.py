"""Adapter: the machine's fingerprint components (DMI serials, the system disk, permanent MAC addresses).

It never fails: a component that cannot be read is reported as absent, with the reason. Raw values stay in memory and
are never logged. The agent sends the HMAC of each value under the tenant's salt (`protocol.hardware`). Reads of /sys
block, so call this module from a worker thread.

Only root can read DMI serials, unless a tmpfiles rule gives them to the agent's group.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec

from protocol import hardware

Udev = Callable[[Path], Mapping[str, str]]
"""A callable: path of a device in /sys -> its properties in the udev database; empty if it has none."""

MACS_MAX = 24
"""Network cards in one fingerprint. The cards of a router or hypervisor could exceed a message's COMPONENTS_MAX."""

_VALUE_BYTES_MAX = 4096
"""A file of /sys has at most one page."""

_DMI = ("product_uuid", "board_serial", "chassis_serial")
_ETHERNET = "1"
_PERMANENT = "0"
"""Value of `addr_assign_type` for an address that the hardware provides (NET_ADDR_PERM)."""


class Components(msgspec.Struct, frozen=True):
    """Raw values by component name, and the reason for each absent component. Its `repr` shows no value."""

    values: dict[str, str]
    absent: dict[str, str]

    def __repr__(self) -> str:
        return f"Components(present={sorted(self.values)}, absent={self.absent})"


class _Absent(Exception):
    """A component cannot be read. Used inside this module only."""


class _DiskSource(msgspec.Struct, frozen=True):
    """The sources of one component of a disk: first properties of udev, then files under the disk in /sys."""

    properties: tuple[str, ...]
    files: tuple[str, ...]

    def readers(self, disk: Path, properties: Mapping[str, str]) -> Iterator[Callable[[], str]]:
        yield from (partial(_property, properties, name) for name in self.properties)
        yield from (partial(_text, disk / file) for file in self.files)


_SERIAL = _DiskSource(("ID_SERIAL_SHORT", "ID_SCSI_SERIAL"), ("device/serial", "serial"))
_WWN = _DiskSource(("ID_WWN_WITH_EXTENSION", "ID_WWN"), ("wwid", "device/wwid"))


def read_components(root: Path = Path("/"), udev: Udev | None = None) -> Components:
    """All components of the machine whose /sys and /proc are under `root`."""
    properties = udev or _udev_properties
    values: dict[str, str] = {}
    absent: dict[str, str] = {}

    def take(name: str, read: Callable[[], str]) -> None:
        try:
            value = read()
        except _Absent as reason:
            absent[name] = str(reason)
            return
        if hardware.is_placeholder(value):
            absent[name] = "the manufacturer left a placeholder"
        else:
            values[name] = value

    for name in _DMI:
        take(name, partial(_text, root / "sys/class/dmi/id" / name))
    disks = [(disk, properties(disk)) for disk in _system_disks(root)]
    take("disk_serial", partial(_of_disks, disks, _SERIAL))
    take("disk_wwn", partial(_of_disks, disks, _WWN))
    interfaces = _physical_interfaces(root)
    if not interfaces:
        absent["mac"] = "no network card"
    for interface in interfaces[:MACS_MAX]:
        take(f"mac/{interface.name}", partial(_mac, interface, properties(interface)))
    return Components(values=values, absent=absent)


def fingerprint(salt: bytes, components: Components) -> dict[str, str]:
    """The components as they are sent: component name -> hex HMAC under the tenant's salt."""
    return hardware.fingerprint(salt, components.values)


def _udev_properties(device: Path) -> Mapping[str, str]:
    """The properties from libudev; empty without the library, the database or the device. /sys is read instead."""
    try:
        # Imported here: it loads libudev, which may be missing, and it is needed a few times a day.
        import pyudev

        found = pyudev.Devices.from_sys_path(pyudev.Context(), str(device))
        return {str(key): str(value) for key, value in found.properties.items()}
    except Exception:  # noqa: BLE001 - ctypes, libudev and pyudev raise many types; a fingerprint must not fail
        return {}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_VALUE_BYTES_MAX).decode("utf-8", errors="replace").strip("\0 \t\r\n")
    except FileNotFoundError as error:
        raise _Absent("the kernel does not report it") from error
    except PermissionError as error:
        raise _Absent("not readable by this user") from error
    except OSError as error:
        raise _Absent(f"cannot read: {error.strerror}") from error


def _first(*readers: Callable[[], str]) -> str:
    """The first value that can be read and is no placeholder. Otherwise raises the last reader's fault."""
    fault = _Absent("the device does not report it")
    for read in readers:
        try:
            value = read()
        except _Absent as error:
            fault = error
            continue
        if not hardware.is_placeholder(value):
            return value
    raise fault


def _property(properties: Mapping[str, str], name: str) -> str:
    value = properties.get(name)
    if not value:
        raise _Absent("the device does not report it")
    return value


def _of_disks(disks: list[tuple[Path, Mapping[str, str]]], source: _DiskSource) -> str:
    """The value of the system disk. Of several disks under one file system the lowest value, in whatever order."""
    found = []
    fault = _Absent("the root file system is on no disk")
    for disk, properties in disks:
        try:
            found.append(_first(*source.readers(disk, properties)))
        except _Absent as error:
            fault = error
    if not found:
        raise fault
    return min(found)


def _system_disks(root: Path) -> list[Path]:
    """The whole disks under the root file system, through partitions, LUKS, LVM and RAID."""
    mounted = _root_mount(root)
    if mounted is None:
        return []
    number, source = mounted
    try:
        device = root / "sys/dev/block" / number
        if not device.exists():  # the number of a btrfs or overlay mount belongs to no device
            if not source.startswith("/dev/"):
                return []
            device = root / "sys/class/block" / (root / source[1:]).resolve().name
        return sorted(set(_whole_disks(device.resolve(strict=True), depth=0)))
    except OSError:
        return []


def _whole_disks(device: Path, depth: int) -> Iterator[Path]:
    """The disks under `device`. `depth` bounds the stack of mappings, which has about four layers in practice."""
    if (device / "partition").exists():
        device = device.parent
    slaves = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    if not slaves:
        yield device
    elif depth < 8:
        for slave in slaves:
            yield from _whole_disks(slave.resolve(strict=True), depth + 1)


def _root_mount(root: Path) -> tuple[str, str] | None:
    """Device number and source of the last mount on "/" (proc(5), mountinfo)."""
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        fields = line.split(" ")
        if len(fields) > 9 and fields[4] == "/" and "-" in fields[6:-3]:
            found = fields[2], fields[fields.index("-", 6) + 2]
    return found


def _physical_interfaces(root: Path) -> list[Path]:
    """Network interfaces of Ethernet hardware; no bridges, tunnels, bonds or VLANs."""
    try:
        interfaces = sorted((root / "sys/class/net").iterdir())
    except OSError:
        return []
    physical = []
    for interface in interfaces:
        try:
            if (interface / "device").exists() and _text(interface / "type") == _ETHERNET:
                physical.append(interface)
        except (_Absent, OSError):
            continue
    return physical


def _mac(interface: Path, properties: Mapping[str, str]) -> str:
    """The permanent address of the card. A bond or an administrator may have set another address on the interface."""
    return _first(
        lambda: _text(interface / "bonding_slave/perm_hwaddr"),
        lambda: _mac_of_name(_property(properties, "ID_NET_NAME_MAC")),
        lambda: _assigned_by_hardware(interface),
    )


def _mac_of_name(name: str) -> str:
    """The address in udev's name of an interface, such as enx0a1b2c3d4e5f (systemd.net-naming-scheme(7))."""
    digits = name[3:]
    if len(digits) != 12 or name[2:3] != "x":
        raise _Absent("the device does not report it")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def _assigned_by_hardware(interface: Path) -> str:
    if _text(interface / "addr_assign_type") != _PERMANENT:
        raise _Absent("its address is not the permanent one")
    return _text(interface / "address")
