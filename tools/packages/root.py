"""Real part: the root of a Debian release in which packages are built, made with debootstrap and kept.

A root is kept under the digest of what it is made from. Commands run in it with namespaces of their own, so their
processes and mounts end with them. They see their working folder as /build, so no path of this machine gets into what
they make.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tools.packages.errors import PackageError

PACKAGES = (
    "ca-certificates", "dpkg-dev", "gcc", "libc6-dev", "libtss2-dev", "libtss2-tcti-device0", "libudev1",
    "pkg-config", "python3", "python3-dev", "python3-venv", "systemd", "tpm-udev",
)  # fmt: skip
"""What building needs, and what the packages depend on: the drill `packages` installs them without a network.

debootstrap takes no name that a release only provides: see `_NAMES`.
"""
_NAMES = {"trixie": {"libtss2-tcti-device0": "libtss2-tcti-device0t64"}}
FROM_HOST = ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt")
"""Files of this machine that a root needs to reach the package indexes."""
NEEDED = {"debootstrap": "debootstrap", "unshare": "util-linux"}
"""Program -> its Debian package."""
_LAYOUT = 1
"""Raised by a change of this module that makes kept roots unfit."""

_ENTER = """
set -eu
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mkdir -p "$1/build"
mount --bind "$2" "$1/build"
exec chroot "$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin SOURCE_DATE_EPOCH="$3" \
    PYTHONHASHSEED=0 PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 \
    PIP_PROGRESS_BAR=off /bin/sh -euc "cd /build; $4"
"""

_TRY = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
mkdir -p /mnt/root/build
mount --bind "$2" /mnt/root/build
mount -t proc proc /mnt/root/proc
mount --rbind /dev /mnt/root/dev
mount -t tmpfs -o mode=1777 tmpfs /mnt/root/tmp
printf '#!/bin/sh\nexit 101\n' >/mnt/root/usr/sbin/policy-rc.d
chmod 755 /mnt/root/usr/sbin/policy-rc.d
ROOT=/mnt/root
inside() {
    chroot /mnt/root /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive /bin/sh -euc "$1"
}
"""
"""What a trial finds: $ROOT, and `inside TEXT`, which runs shell text in it."""


class Root:
    """The root of a release. `digest` says what it was made from."""

    def __init__(self, suite: str, cache: Path, mirror: str = "") -> None:
        names = _NAMES.get(suite, {})
        self._suite, self._mirror = suite, mirror
        self._packages = [names.get(name, name) for name in PACKAGES]
        made_from = repr((_LAYOUT, suite, self._packages, mirror)).encode()
        self.digest = hashlib.sha256(made_from).hexdigest()[:16]
        self.path = cache / "roots" / f"{suite}-{self.digest}"

    def make(self) -> None:
        """Make the root, unless it is there. An interrupted attempt is never used. Raises PackageError."""
        if self.path.exists():
            return
        attempt = self.path.with_name(f"{self.path.name}.new")
        shutil.rmtree(attempt, ignore_errors=True)
        attempt.mkdir(parents=True)
        # Without the option and without a keyring, debootstrap takes any root: its compiler makes what ships.
        command = ["debootstrap", "--force-check-gpg", "--variant=minbase", f"--include={','.join(self._packages)}"]
        run([*command, self._suite, str(attempt), *([self._mirror] if self._mirror else [])])
        for name in FROM_HOST:
            if (Path("/") / name).exists():
                shutil.copyfile(Path("/") / name, attempt / name)
        attempt.rename(self.path)

    def run(self, folder: Path, script: str, epoch: int) -> str:
        """Run shell text in the root, with `folder` as /build. Returns what it prints. Raises PackageError."""
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return run([*namespaces, "/bin/sh", "-c", _ENTER, "sh", str(self.path), str(folder), str(epoch), script])

    def trial(self, folder: Path, script: str) -> subprocess.CompletedProcess[str]:
        """Run shell text beside a copy of the root that ends with it, without a network. `folder` is /build in it."""
        namespaces = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
        command = [*namespaces, "/bin/sh", "-c", _TRY + script, "sh", str(self.path), str(folder)]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, stdin=subprocess.DEVNULL
        )


def run(command: list[str], folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a program. Returns what it prints on standard output. Raises PackageError with the end of its output."""
    variables = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", **(environment or {})}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=variables, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        end = (done.stdout + done.stderr)[-4000:].strip()
        raise PackageError(f"cannot run `{command[0]}`: it exited {done.returncode}. Its last lines:\n{end}")
    return done.stdout


def missing_packages(needed: dict[str, str]) -> list[str]:
    """The Debian packages that this machine lacks, of those that have the programs in `needed`."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return sorted({package for program, package in needed.items() if shutil.which(program, path=path) is None})
