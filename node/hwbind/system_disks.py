"""Adapter: the whole disks that carry the root file system, found through /proc/self/mountinfo and /sys.

Between the file system and its disks there may be partitions, LUKS, LVM, multipath, RAID, several devices of one btrfs,
the layers of an overlay, and image files on loop devices. Every member counts: each disk of a mirror, each disk under a
volume. A layer that cannot be read is left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

_VISITED_MAX = 256
"""Mounts and devices that one search visits. A stack has about four layers; a large array has some dozen members."""

_ESCAPED = re.compile(r"\\([0-7]{3})")
"""A space, line feed, comma or backslash in a field of mountinfo (proc(5))."""
_COLON = re.compile(r"(?<!\\):")
"""Between the directories of an overlay; a colon within a name has a backslash."""
_NUMBER = re.compile(r"\d+:\d+")
_LOWER_LAYERS = ("lowerdir", "lowerdir+", "datadir+")
_UPPER_LAYER = "upperdir"


class _Mount(msgspec.Struct, frozen=True):
    """One line of mountinfo. `number` is "major:minor" of the device, or of no device (btrfs, overlay)."""

    number: str
    point: str
    kind: str
    source: str
    options: tuple[str, ...]

    def layers(self, *names: str) -> list[str]:
        """The directories of an overlay that the options of these names give, from top to bottom."""
        values = [value for name, _, value in (option.partition("=") for option in self.options) if name in names]
        paths = (path for value in values for path in _COLON.split(value))
        return [path.replace("\\:", ":") for path in paths if path.startswith("/")]

    def holds(self, path: str) -> bool:
        return path == self.point or path.startswith(self.point.rstrip("/") + "/")


def system_disks(root: Path) -> list[Path]:
    """The disks' directories in /sys, sorted. `root` is the directory that contains /sys and /proc."""
    search = _Search(root)
    return sorted(set(search.of_path("/")))


class _Search:
    """One walk from a path to its disks. Each mount and device is visited once, so a circle ends."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts = _mounts(root)
        self.visited: set[_Mount | Path] = set()

    def of_path(self, path: str) -> Iterator[Path]:
        """The disks of the file system that `path` is on: the longest mount point, and of equal ones the last."""
        found = None
        for mount in self.mounts:
            if mount.holds(path) and (found is None or len(mount.point) >= len(found.point)):
                found = mount
        if found is not None and self._is_new(found):
            yield from self._of_overlay(found) if found.kind == "overlay" else self._of_devices(found)

    def _is_new(self, place: _Mount | Path) -> bool:
        if place in self.visited or len(self.visited) >= _VISITED_MAX:
            return False
        self.visited.add(place)
        return True

    def _of_overlay(self, mount: _Mount) -> Iterator[Path]:
        """The disks of the lower layers. The upper layer, often a RAM disk, counts if no lower layer is on a disk."""
        lower = [disk for path in mount.layers(*_LOWER_LAYERS) for disk in self.of_path(path)]
        yield from lower or (disk for path in mount.layers(_UPPER_LAYER) for disk in self.of_path(path))

    def _of_devices(self, mount: _Mount) -> Iterator[Path]:
        device = _resolved(self.root / "sys/dev/block" / mount.number) if _NUMBER.fullmatch(mount.number) else None
        # The number of a btrfs belongs to no device. bcachefs names all its devices in one source.
        named = [device] if device else [self._block_device(source) for source in mount.source.split(":")]
        for found in named:
            if found is not None:
                for member in self._members_of_btrfs(found) or [found]:
                    yield from self._of_device(member)

    def _block_device(self, source: str) -> Path | None:
        """`source` is a path such as /dev/sda2 or /dev/mapper/vg-root."""
        if not source.startswith("/dev/"):
            return None
        node = _resolved(self.root / source[1:]) or self.root / source[1:]
        return None if node.name in ("", "..") else _resolved(self.root / "sys/class/block" / node.name)

    def _members_of_btrfs(self, device: Path) -> list[Path]:
        """All devices of the btrfs that `device` is in; empty for another file system."""
        for filesystem in _entries(self.root / "sys/fs/btrfs"):
            members = [member for member in map(_resolved, _entries(filesystem / "devices")) if member is not None]
            if device in members:
                return members
        return []

    def _of_device(self, device: Path) -> Iterator[Path]:
        if (device / "partition").exists():
            device = device.parent
        if not self._is_new(device):
            return
        slaves = [slave for slave in map(_resolved, _entries(device / "slaves")) if slave is not None]
        image = _first_line(device / "loop/backing_file")
        if slaves:
            for slave in slaves:
                yield from self._of_device(slave)
        elif image:
            yield from self.of_path(image)
        else:
            yield device


def _mounts(root: Path) -> list[_Mount]:
    """The mounts in the order in which they were made; a line in another form is left out."""
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [mount for mount in map(_mount, lines) if mount is not None]


def _mount(line: str) -> _Mount | None:
    fields = line.split(" ")
    if len(fields) < 10 or "-" not in fields[6:-3]:
        return None
    kind, source, options = fields[fields.index("-", 6) + 1 :][:3]
    return _Mount(
        fields[2], _unescaped(fields[4]), kind, _unescaped(source), tuple(map(_unescaped, options.split(",")))
    )


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), field)


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve(strict=True)
    except (OSError, ValueError):
        return None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").split("\n")[0]
    except OSError:
        return ""
