"""Pure functions and file reads: the initial RAM disk of a machine in QEMU. It loads the disk's driver and mounts the disk.

Debian's own RAM disk runs udev for every device, which takes longer than the rest of the kernel's start. This one has
six modules of the kernel, four programs of klibc and a script, as an archive of the form `newc` (cpio(5)), which the
kernel unpacks. It is not compressed, because QEMU copies a megabyte faster than the guest decompresses it.
"""

import lzma
from collections.abc import Iterator
from pathlib import Path

MODULES = (
    "virtio/virtio.ko", "virtio/virtio_ring.ko", "virtio/virtio_pci_legacy_dev.ko", "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci.ko", "block/virtio_blk.ko",
)  # fmt: skip
"""The driver of the disk and what it requires, in the order of loading, below the folder of the drivers. A kernel can have
some of them built in."""
PROGRAMS = ("sh", "mount", "insmod", "run-init")
SCRIPT = f"""#!/bin/sh
mount -t devtmpfs dev /dev
for module in {" ".join(Path(module).name for module in MODULES)}; do test ! -e /$module || insmod /$module; done
mount -t ext4 -o rw /dev/vda /root
mount -o move /dev /root/dev
exec run-init /root /sbin/init
"""
_DIRECTORY, _PROGRAM = 0o040755, 0o100755


def initrd(root: Path) -> bytes:
    """The archive, made of the files of a Debian below `root` that has one kernel and klibc.

    Raises ValueError without a kernel or with several, and OSError if a file is missing.
    """
    (drivers,) = root.glob("usr/lib/modules/*/kernel/drivers")
    built_in = (drivers.parent.parent / "modules.builtin").read_text().split()
    # The loader that the programs name has the digest of their build in its name.
    (loader,) = root.glob("usr/lib/klibc-*.so")
    files = [(name, b"") for name in ("bin", "lib", "usr", "usr/lib", "dev", "root")]
    files += [("init", SCRIPT.encode())]
    # The programs of Debian 12 name it in /lib, and those of Debian 13 in /usr/lib.
    files += [(f"{folder}/{loader.name}", loader.read_bytes()) for folder in ("lib", "usr/lib")]
    files += [(f"bin/{name}", (root / "usr/lib/klibc/bin" / name).read_bytes()) for name in PROGRAMS]
    loaded = [module for module in MODULES if f"kernel/drivers/{module}" not in built_in]
    files += [(Path(module).name, _module(drivers / module)) for module in loaded]
    return b"".join(_archive(files))


def _module(path: Path) -> bytes:
    """A module of the kernel. Debian 13 compresses them, and `insmod` of klibc does not decompress."""
    compressed = path.with_name(f"{path.name}.xz")
    return lzma.decompress(compressed.read_bytes()) if compressed.exists() else path.read_bytes()


def _archive(files: list[tuple[str, bytes]]) -> Iterator[bytes]:
    """An archive of the form `newc`. A file without content is a directory. All belong to root."""
    for number, (name, content) in enumerate([*files, ("TRAILER!!!", b"")], 1):
        mode = _PROGRAM if content else _DIRECTORY
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
        yield head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)
