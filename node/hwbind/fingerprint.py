"""Adapter: the machine's fingerprint components (DMI serials, the system disks, permanent MAC addresses).

It never fails: a component that cannot be read is reported as absent, with the reason. A kind is `unreadable` if the
machine may have another value of it than the reading shows: a permission, an I/O error, a device that udev has not
processed yet. Raw values stay in memory and are never logged. The agent sends the HMAC of each value under the tenant's
salt (`protocol.hardware`). Reads of /sys block, so call this module from a worker thread.

Only root can read DMI serials in /sys. `node.hwbind.dmi` has the ways by which an agent that is not root gets them.
"""

import fcntl
import os
import re
import socket
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec

from node.hwbind import dmi
from node.hwbind.system_disks import system_disks
from protocol import hardware
from protocol.fingerprint import VALUES_MAX, WEIGHTS

Udev = Callable[[Path], Mapping[str, str] | None]
"""A callable: path of a device in /sys -> its properties in the udev database; empty if the machine has no database.
None if udev has not processed the device yet, or cannot be asked."""

Provided = Callable[[str], bytes]
"""A callable: kind of a DMI value -> its bytes as root has read them; empty if root has not."""

PermanentAddress = Callable[[str], str]
"""A callable: name of a network interface -> the address that the card was made with; empty if it is not known."""

MACS_MAX = VALUES_MAX["mac"]
DISKS_MAX = VALUES_MAX["disk_serial"]
"""Values of one kind in a fingerprint. All kinds together stay within a message's COMPONENTS_MAX: 3 + 2 * 6 + 16."""

UDEV_DATABASE = Path("/run/udev/data")
"""The directory of the udev database (sd-device of systemd). A machine or container without udev does not have it."""

_ETHERNET = "1"
_PERMANENT = "0"
"""Value of `addr_assign_type` for an address that the hardware provides (NET_ADDR_PERM)."""
_GROUP_OR_LOCAL = 0b11
"""Bits of the first octet: a group address, or a locally administered address (IEEE 802, clause 8.2)."""
_VPD_HEADER_BYTES = 4

_SIOCETHTOOL = 0x8946
_ETHTOOL_GPERMADDR = 0x20
_ADDRESS_BYTES_MAX = 32
_IFREQ_BYTES = 40


class Reasons(dict[str, str]):
    """The reason why a kind of component is absent, by kind; "" for a kind that is present."""

    def __missing__(self, kind: str) -> str:
        return ""


class Components(msgspec.Struct, frozen=True):
    """Raw values by component name, and the reason for each absent kind. Its `repr` shows no value.

    A kind with several values has the names `mac`, `mac/2`, `mac/3` (`protocol.hardware.named`). `unreadable` are the
    kinds of which a value could not be read; the reading decides nothing about them.
    """

    values: dict[str, str]
    absent: Reasons
    unreadable: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Components(present={sorted(self.values)}, absent={self.absent}, unreadable={sorted(self.unreadable)})"


UNREAD = Components({}, Reasons(), frozenset(WEIGHTS))
"""The result of a reading that did not end."""


class _Absent(Exception):
    """A component cannot be read. Used inside this module only.

    `doubtful`: the machine may have a value all the same. Otherwise it is certain that the source has none.
    """

    def __init__(self, reason: str, *, doubtful: bool = False) -> None:
        super().__init__(reason)
        self.doubtful = doubtful


Reader = Callable[[], str]
Convert = Callable[[str], str]


def read_components(
    root: Path = Path("/"),
    udev: Udev | None = None,
    permanent_address: PermanentAddress | None = None,
    provided: Provided | None = None,
) -> Components:
    """All components of the machine whose /sys and /proc are under `root`.

    If `root` is this machine's own, the kernel is asked without `permanent_address`, and `node.hwbind.dmi` without
    `provided`.
    """
    properties = udev or _udev_properties
    address = permanent_address or (_ask_kernel if root == Path("/") else _no_address)
    dmi_value = provided or (dmi.provided if root == Path("/") else _nothing)
    values: dict[str, str] = {}
    absent = Reasons()
    unreadable: set[str] = set()

    def take(kind: str, devices: Iterable[tuple[Iterable[Reader], Convert]], at_most: int, nothing: str) -> None:
        found = []
        reason = nothing
        for sources, convert in devices:
            tried = _Tried(sources)
            try:
                found.append(convert(tried.first()))
            except _Absent as error:
                reason = str(error)
            if tried.doubtful:
                unreadable.add(kind)
        if found:
            values.update(hardware.named(kind, found, at_most))
        else:
            absent[kind] = reason

    for kind in dmi.KINDS:
        take(kind, [(_dmi_values(root, kind, dmi_value), _unchanged)], 1, "")
    disks = [(disk, properties(disk)) for disk in system_disks(root)]
    no_disk = "the root file system is on no disk"
    take("disk_serial", [(_serials(*disk), _unchanged) for disk in disks], DISKS_MAX, no_disk)
    take("disk_wwn", [(_wwns(*disk), _unchanged) for disk in disks], DISKS_MAX, no_disk)
    cards = [(_addresses(card, properties(card), address), _card_address) for card in _cards(root)]
    take("mac", cards, MACS_MAX, "no network card")
    return Components(values, absent, frozenset(unreadable))


def fingerprint(salt: bytes, components: Components) -> dict[str, str]:
    """The components as they are sent: component name -> hex HMAC under the tenant's salt."""
    return hardware.fingerprint(salt, components.values)


def _udev_properties(device: Path) -> Mapping[str, str] | None:
    """The properties from libudev. /sys is read as well, so a machine without udev has a fingerprint too."""
    try:
        # Imported here: it loads libudev, which may be missing, and it is needed a few times a day.
        import pyudev

        found = pyudev.Devices.from_sys_path(pyudev.Context(), str(device))
        if found.is_initialized:
            return {str(key): str(value) for key, value in found.properties.items()}
    except Exception:  # noqa: BLE001, S110 - ctypes, libudev and pyudev raise many types; a fingerprint must not fail
        pass
    return None if UDEV_DATABASE.is_dir() else {}


def _no_address(interface: str) -> str:
    return ""


def _nothing(kind: str) -> bytes:
    return b""


def _ask_kernel(interface: str) -> str:
    """The permanent address as `ethtool -P` reads it; empty if the driver does not know it. Needs no privilege."""
    answer = array("B", struct.pack(f"=II{_ADDRESS_BYTES_MAX}x", _ETHTOOL_GPERMADDR, _ADDRESS_BYTES_MAX))
    request = struct.pack("=16sQ", os.fsencode(interface), answer.buffer_info()[0]).ljust(_IFREQ_BYTES, b"\0")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    except OSError:
        return ""
    _, size = struct.unpack_from("=II", answer)
    return answer.tobytes()[8 : 8 + size].hex(":")


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(dmi.VALUE_BYTES_MAX)
    except FileNotFoundError as error:
        raise _Absent("the kernel does not report it") from error
    except PermissionError as error:
        raise _Absent("not readable by this user", doubtful=True) from error
    except OSError as error:
        raise _Absent(f"cannot read: {error.strerror}", doubtful=True) from error


def _as_text(value: bytes) -> str:
    """The value without its padding. Other bytes than printable text are no serial number, but an erased memory."""
    try:
        text = " ".join(value.strip(b"\0 \t\r\n").decode().split())
    except UnicodeDecodeError as error:
        raise _Absent("its value is not text") from error
    return _printable(text)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise _Absent("its value is not text")
    return text


def _text(path: Path) -> str:
    return _as_text(_bytes(path))


def _property(properties: Mapping[str, str] | None, name: str) -> str:
    if properties is None:
        raise _Absent("udev has not processed the device", doubtful=True)
    value = properties.get(name)
    if not value:
        raise _Absent("the device does not report it")
    return _printable(value)


def _unchanged(value: str) -> str:
    return value


class _Tried:
    """The sources of one value, the best first. `doubtful`: a source before the found one could not be read."""

    def __init__(self, sources: Iterable[Reader]) -> None:
        self._sources = sources
        self.doubtful = False

    def first(self) -> str:
        """The first value that can be read and is no placeholder. Otherwise raises the last source's fault.

        A fault that leaves a doubt is raised before one that does not: it is the cause that a person can cure.
        """
        fault = _Absent("the device does not report it")
        for read in self._sources:
            try:
                value = read()
            except _Absent as error:
                self.doubtful = self.doubtful or error.doubtful
                fault = fault if fault.doubtful and not error.doubtful else error
                continue
            if not hardware.is_placeholder(value):
                return value
            fault = fault if fault.doubtful else _Absent("the manufacturer left a placeholder")
        raise fault


def _dmi_values(root: Path, kind: str, provided: Provided) -> Iterator[Reader]:
    """The sources of a DMI value. The value that root has read comes first, because /sys refuses it to other users."""
    yield lambda: _known(_as_text(provided(kind)))
    yield partial(_text, dmi.folder(root) / kind)


def _serials(disk: Path, properties: Mapping[str, str] | None) -> Iterator[Reader]:
    """The sources of a disk's serial number, the best first.

    The SCSI serial number is that of the disk, also behind a USB bridge. `ID_SERIAL_SHORT` is the bridge's own serial
    number there, and a copy of the WWN on a SCSI disk. virtio reports `serial` only.
    """
    yield partial(_property, properties, "ID_SCSI_SERIAL")
    yield lambda: _as_text(_bytes(disk / "device/vpd_pg80")[_VPD_HEADER_BYTES:])
    yield lambda: _memory_card(disk)
    yield partial(_property, properties, "ID_SERIAL_SHORT")
    yield partial(_text, disk / "device/serial")
    yield partial(_text, disk / "serial")


def _memory_card(disk: Path) -> str:
    """The CID of an eMMC or SD card: maker, product, date and a 32-bit serial number. It counts if that number does."""
    card_id = _text(disk / "device/cid")
    if hardware.is_placeholder(_text(disk / "device/serial")):
        raise _Absent("the manufacturer left a placeholder")
    return card_id


def _wwns(disk: Path, properties: Mapping[str, str] | None) -> Iterator[Reader]:
    yield partial(_property, properties, "ID_WWN_WITH_EXTENSION")
    yield lambda: _whole_wwn(_property(properties, "ID_WWN"))
    yield partial(_text, disk / "wwid")
    yield partial(_text, disk / "device/wwid")


def _whole_wwn(value: str) -> str:
    """An NAA 6 name has 32 digits. udev's ID_WWN has the first 16 of them, which the volumes of one array share."""
    if re.fullmatch(r"0x6[0-9a-f]{15}", value.lower()):
        raise _Absent("the device does not report it")
    return value


def _cards(root: Path) -> list[Path]:
    """Network interfaces of Ethernet hardware: no bridges, bonds, VLANs, tunnels or virtual functions of a card."""
    try:
        interfaces = sorted((root / "sys/class/net").iterdir())
    except OSError:
        return []
    cards = []
    for interface in interfaces:
        try:
            if (
                (interface / "device").exists()
                and not (interface / "device/physfn").exists()
                and "virtual" not in interface.resolve().relative_to(root.resolve()).parts
                and _text(interface / "type") == _ETHERNET
            ):
                cards.append(interface)
        except (_Absent, OSError, ValueError):
            continue
    return cards


def _addresses(
    interface: Path, properties: Mapping[str, str] | None, permanent_address: PermanentAddress
) -> Iterator[Reader]:
    """The sources of a card's permanent address. A bond or an administrator may have set another one."""
    yield lambda: _known(permanent_address(interface.name))
    yield partial(_text, interface / "bonding_slave/perm_hwaddr")
    yield lambda: _mac_of_name(_property(properties, "ID_NET_NAME_MAC"))
    yield lambda: _assigned_by_hardware(interface)


def _card_address(found: str) -> str:
    address = hardware.canonical("mac", found)
    if re.fullmatch(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", address) is None:
        raise _Absent("its address is not an Ethernet address")
    if int(address[:2], 16) & _GROUP_OR_LOCAL:
        raise _Absent("its address is locally administered")
    return address


def _known(value: str) -> str:
    if not value:
        raise _Absent("the device does not report it")
    return value


def _mac_of_name(name: str) -> str:
    """The address in udev's name of an interface, such as enx0a1b2c3d4e5f (systemd.net-naming-scheme(7))."""
    if name[2:3] != "x":
        raise _Absent("the device does not report it")
    return name[3:]


def _assigned_by_hardware(interface: Path) -> str:
    if _text(interface / "addr_assign_type") != _PERMANENT:
        raise _Absent("its address is not the permanent one")
    return _text(interface / "address")
