"""Real part: root file systems of Debian for containers, made by debootstrap and kept under the digest of their parts."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lab.processes import StepFailed

Release = Literal["bookworm", "trixie"]
"""Debian 12 and Debian 13."""

MAKE_SECONDS_MAX = 1800.0
"""debootstrap takes one to three minutes on an idle machine."""
_ALWAYS = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "procps", "python3", "ca-certificates", "gpgv",
    "libudev1", "tpm-udev", "swtpm", "swtpm-tools", "tpm2-abrmd", "tpm2-tools",
)  # fmt: skip
"""`swtpm` and `tpm2-abrmd` are the TPM of a container, because a container has no TPM device."""
PACKAGES: dict[Release, tuple[str, ...]] = {
    "bookworm": (
        *_ALWAYS, "libtss2-esys-3.0.2-0", "libtss2-fapi1", "libtss2-mu0", "libtss2-rc0", "libtss2-tcti-device0",
        "libtss2-tcti-swtpm0", "libtss2-tcti-tabrmd0", "libtss2-tctildr0",
    ),
    "trixie": (
        *_ALWAYS, "libtss2-esys-3.0.2-0t64", "libtss2-fapi1t64", "libtss2-mu-4.0.1-0t64", "libtss2-policy0t64",
        "libtss2-rc0t64",
        "libtss2-tcti-device0t64", "libtss2-tcti-swtpm0t64", "libtss2-tcti-tabrmd0", "libtss2-tctildr0t64",
    ),
}  # fmt: skip
"""The packages of each root: a minimal Debian, what the agent needs, and the TPM."""
FROM_HOST = ("etc/hosts", "etc/ssl/certs/ca-certificates.crt")
"""Files of this machine that a root needs to reach the package indexes."""


def debian_root(cache: Path, release: Release, mirror: str = "", extra: Sequence[str] = ()) -> Path:
    """The root of a release below `cache`; made there if it is missing. `extra` are more packages. Raises StepFailed.

    Two processes may ask for the same root at the same time: each makes one, and the first one that is complete stays.
    """
    packages = (*PACKAGES[release], *extra)
    digest = hashlib.sha256(repr((packages, mirror, FROM_HOST)).encode()).hexdigest()[:16]
    home = cache / f"{release}-{digest}"
    if home.is_dir():
        return home
    attempt = cache / f"{release}-{digest}.{os.getpid()}"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", release, str(attempt)]
        _run([*command, *([mirror] if mirror else [])])
        for name in FROM_HOST:
            if (Path("/") / name).exists():
                shutil.copyfile(Path("/") / name, attempt / name)
        # A container is not shut down for a lack of entropy, time or consoles; and it is never idle because of these.
        for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
                     "fstrim.timer", "systemd-timesyncd.service", "tpm2-abrmd.service"):  # fmt: skip
            (attempt / "etc/systemd/system" / unit).unlink(missing_ok=True)
            (attempt / "etc/systemd/system" / unit).symlink_to("/dev/null")
        if not home.is_dir():
            attempt.rename(home)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    return home


def _run(command: Sequence[str]) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=MAKE_SECONDS_MAX,
        env={**os.environ, "PATH": path},
    )
    if done.returncode != 0:
        raise StepFailed(f"`{command[0]}` exited {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
