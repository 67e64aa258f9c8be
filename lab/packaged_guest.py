"""Real part: the disk image of a customer's Debian in QEMU: a root of `lab.debian_root` with a kernel, and no agent.

The agent comes from its package, as on a customer's machine. The Debian has a real systemd, D-Bus and udev, the kernel's
TPM, and what the package depends on, so that the guest needs no other server than that of the package.
"""

import hashlib
import os
import shutil
from pathlib import Path

from lab.debian_root import Release, debian_root
from lab.guest_image import DISK_MIB, GUEST_FILES, GUEST_LINKS, SHELL, Image, filesystem, run_tool
from lab.guest_initrd import MODULES, PROGRAMS, SCRIPT, initrd

EXTRA = ("klibc-utils", "linux-image-cloud-amd64")
_FILES = {
    **GUEST_FILES,
    "etc/fstab": "/dev/vda / ext4 rw 0 1\n",
    "usr/local/sbin/lab-shell": SHELL,
    "etc/systemd/system/lab-shell.service": "[Unit]\nDescription=Commands of the lab\n"
    "[Service]\nExecStart=/usr/local/sbin/lab-shell\nRestart=always\nStandardError=journal+console\n",
}


def packaged_image(cache: Path, release: Release, mirror: str = "") -> Image:
    """The image of a release below `cache`, made there if it is missing. Raises StepFailed."""
    inputs = repr((sorted(_FILES.items()), sorted(GUEST_LINKS.items()), EXTRA, DISK_MIB, MODULES, PROGRAMS, SCRIPT))
    root = debian_root(cache, release, mirror, EXTRA)
    home = cache / f"machine-{root.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    if not home.is_dir():
        _make(root, home)
    return Image(home / "vmlinuz", home / "initrd.img", home / "disk.img", None)


def _make(root: Path, home: Path) -> None:
    """Make kernel, initrd and disk in `home`. An interrupted attempt leaves nothing that a later run would use."""
    attempt = home.with_name(f"{home.name}.{os.getpid()}")
    copy = attempt / "root"
    attempt.mkdir()
    try:
        run_tool("cp", "--archive", str(root), str(copy))
        for name, content in _FILES.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_text(content)
        (copy / "usr/local/sbin/lab-shell").chmod(0o755)
        for name, target in GUEST_LINKS.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).unlink(missing_ok=True)
            (copy / name).symlink_to(target)
        (kernel,) = (copy / "boot").glob("vmlinuz-*")
        shutil.copyfile(kernel, attempt / "vmlinuz")
        (attempt / "initrd.img").write_bytes(initrd(copy))
        shutil.rmtree(copy / "var/cache/apt/archives", ignore_errors=True)
        (copy / "var/cache/apt/archives/partial").mkdir(parents=True)
        filesystem(copy, attempt / "disk.img", DISK_MIB, "guest")
        shutil.rmtree(copy)
        if not home.is_dir():
            attempt.rename(home)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
