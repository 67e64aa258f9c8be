"""Real part: the disk images of a machine in QEMU: a small Debian with its kernel, and the agent of this checkout.

The Debian is made once with debootstrap and kept below a directory, under the digest of what it is made from. The agent
is a second, small image, made again for each run: the code of this checkout, and the libraries of its environment that
the agent requires. Both are ext4 images that `mkfs.ext4 -d` fills, so no image is ever mounted on this machine.

The guest has the Debian release and the Python of this machine, because the libraries are those of this machine.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

import msgspec

from lab.agent_tree import copy_agent
from lab.guest_initrd import MODULES, PROGRAMS, SCRIPT, initrd
from lab.processes import StepFailed

NEEDED = {
    "debootstrap": "debootstrap",
    "mkfs.ext4": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "swtpm": "swtpm",
}
"""Program -> its Debian package."""
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "python3", "klibc-utils", "tpm-udev",
    "linux-image-cloud-amd64", "libtss2-esys-3.0.2-0", "libtss2-fapi1", "libtss2-mu0", "libtss2-rc0",
    "libtss2-tcti-device0", "libtss2-tctildr0", "libudev1", "tpm2-tools",
)  # fmt: skip
"""The packages of the guest. tpm2-tools are for rows that act as an administrator of the TPM."""
DISK_MIB = 2048
AGENT_MIB = 256
MAKE_SECONDS_MAX = 900.0
"""debootstrap takes one to three minutes."""
AGENT_LABEL = "cascadia"
SHELL_PORT = "lab.shell"
"""Name of the virtio port over which commands reach the guest."""

SHELL = '''#!/usr/bin/python3
"""Runs the commands that come over a virtio port, one a line, as JSON. An empty command is answered at once.

The command `ask-agent METHOD PATH` is a request to the agent's socket. It exits with 1 if no agent answers.
"""
import json, os, socket, subprocess, time
NAME = "/dev/virtio-ports/lab.shell"
while not os.path.exists(NAME):
    time.sleep(0.2)
port = os.open(NAME, os.O_RDWR)

def ask_agent(seconds, method, path):
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(seconds)
        link.connect("/run/cascadia/cascadia.sock")
        link.sendall(f"{method} {path} HTTP/1.1\\r\\nHost: agent\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    return answer.partition(b"\\r\\n\\r\\n")[2].decode()

rest = b""
while True:
    data = os.read(port, 65536)
    if not data:
        time.sleep(0.2)
        continue
    *lines, rest = (rest + data).split(b"\\n")
    for line in lines:
        try:
            asked = json.loads(line)
        except ValueError:
            continue
        answer = {"id": asked["id"], "status": 0, "out": "", "error": ""}
        try:
            if asked["argv"][:1] == ["ask-agent"]:
                try:
                    answer["out"] = ask_agent(asked["seconds"], *asked["argv"][1:])
                except OSError as error:
                    answer |= {"status": 1, "error": str(error)}
            elif asked["argv"]:
                done = subprocess.run(asked["argv"], input=asked["input"].encode(), capture_output=True,
                                      timeout=asked["seconds"])
                answer |= {"status": done.returncode, "out": done.stdout.decode(errors="replace")[-200000:],
                           "error": done.stderr.decode(errors="replace")[-20000:]}
        except Exception as error:
            answer |= {"status": -1, "error": repr(error)}
        out = json.dumps(answer).encode() + b"\\n"
        while out:
            out = out[os.write(port, out):]
'''
GUEST_FILES = {
    "etc/hostname": "guest\n",
    # The cloud is at `localhost` for this machine and for the guest, so its URLs and certificates fit both.
    "etc/hosts": "127.0.0.1 guest\n10.0.2.2 localhost\n",
    "etc/systemd/network/lab.network": "[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
    "LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
}
"""Files of every guest."""
_FILES = {
    **GUEST_FILES,
    "etc/fstab": f"/dev/vda / ext4 rw 0 1\nLABEL={AGENT_LABEL} /opt/cascadia ext4 ro 0 0\n",
    "etc/systemd/system/lab-shell.service": "[Unit]\nDescription=Commands of the lab\nRequiresMountsFor=/opt/cascadia\n"
    "[Service]\nExecStart=/opt/cascadia/lab-shell\nRestart=always\nStandardError=journal+console\n",
    "etc/systemd/system/cascadia.service": "[Unit]\nDescription=Cascade agent\nStartLimitIntervalSec=0\n"
    "RequiresMountsFor=/opt/cascadia\n[Service]\nType=notify\nNotifyAccess=main\nWatchdogSec=60\n"
    "ExecStart=/opt/cascadia/cascadia run\nRestart=always\nRestartSec=1\nRestartPreventExitStatus=80 81\n"
    "TimeoutStartSec=300\nRuntimeDirectory=cascadia\nRuntimeDirectoryPreserve=restart\nStateDirectory=cascadia\n"
    "StateDirectoryMode=0700\n",
}
"""Files of a guest with the agent of this checkout."""
GUEST_LINKS = {
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service",
    "etc/systemd/system/multi-user.target.wants/lab-shell.service": "/etc/systemd/system/lab-shell.service",
}
"""Links of every guest."""
_LINKS = {
    **GUEST_LINKS,
    "etc/cascadia": "/opt/cascadia/etc",
    "etc/systemd/system/multi-user.target.wants/cascadia.service": "/etc/systemd/system/cascadia.service",
    **{
        f"etc/systemd/system/{name}": "/dev/null"
        for name in (
            "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
            "e2scrub_reap.service", "fstrim.timer", "getty.target", "systemd-timesyncd.service",
            # No person logs in, no program asks for D-Bus, and the agent needs none of these kernel interfaces.
            # Without these units a boot is shorter.
            "dbus.service", "dbus.socket", "dev-hugepages.mount", "dev-mqueue.mount", "kmod-static-nodes.service",
            "modprobe@.service", "proc-sys-fs-binfmt_misc.automount", "sys-fs-fuse-connections.mount",
            "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
            "systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-binfmt.service",
            "systemd-logind.service", "systemd-modules-load.service", "systemd-pstore.service",
            "systemd-tmpfiles-clean.timer", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
        )
    },
}  # fmt: skip
"""Links of a guest with the agent of this checkout. A unit that leads to /dev/null never starts; no time service sets the clock."""
_AGENT_FILES = {
    "cascadia": "#!/bin/sh\nexport PYTHONPATH=/opt/cascadia/code:/opt/cascadia/libraries PYTHONDONTWRITEBYTECODE=1\n"
    'exec /usr/bin/python3 -m node.cli "$@"\n',
    "lab-shell": SHELL,
    # The defaults of production mode, except for a short heartbeat. The guest is slow.
    "etc/cascadia.toml": "heartbeat_seconds = 5\nsettle_seconds = 30\n",
}


class Image(msgspec.Struct, frozen=True):
    """The files that a machine boots from. `disk` and `agent` are never written. Without `agent` it has no agent."""

    kernel: Path
    initrd: Path
    disk: Path
    agent: Path | None

    @classmethod
    def made(cls, cache: Path, scratch: Path, mirror: str = "") -> Self:
        """The image: the Debian from `cache`, or else made there; the agent made in `scratch`. Raises StepFailed."""
        home = cache / f"{_release()}-{_digest(mirror)}"
        if not (home / "disk.img").exists():
            _make_debian(home, mirror)
        agent = scratch / "agent.img"
        _make_agent(scratch / "agent", agent)
        return cls(home / "vmlinuz", home / "initrd.img", home / "disk.img", agent)


def missing_packages() -> list[str]:
    """The Debian packages that this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted({package for program, package in NEEDED.items() if shutil.which(program, path=path) is None})


def _release() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")


def _digest(mirror: str) -> str:
    inputs = repr(
        (PACKAGES, sorted(_FILES.items()), sorted(_LINKS.items()), DISK_MIB, MODULES, PROGRAMS, SCRIPT, mirror)
    ).encode()
    return hashlib.sha256(inputs).hexdigest()[:16]


def run_tool(*command: str) -> None:
    """Run a program of this machine. Raises StepFailed if it fails."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=MAKE_SECONDS_MAX,
        env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
    )
    if done.returncode != 0:
        raise StepFailed(f"`{command[0]}` exited {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")


def _make_debian(home: Path, mirror: str) -> None:
    """Make kernel, initrd and disk in `home`. An interrupted attempt leaves nothing that a later run would use."""
    attempt = home.with_name(f"{home.name}.new")
    shutil.rmtree(attempt, ignore_errors=True)
    root = attempt / "root"
    root.mkdir(parents=True)
    try:
        include = f"--include={','.join(PACKAGES)}"
        run_tool("debootstrap", "--variant=minbase", include, _release(), str(root), *([mirror] if mirror else []))
        for name, content in _FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        for name, target in _LINKS.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).unlink(missing_ok=True)
            (root / name).symlink_to(target)
        (root / "opt/cascadia").mkdir(parents=True, exist_ok=True)
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        shutil.copyfile(kernel, attempt / "vmlinuz")
        (attempt / "initrd.img").write_bytes(initrd(root))
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        filesystem(root, attempt / "disk.img", DISK_MIB, "guest")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)
    attempt.rename(home)


def _make_agent(folder: Path, image: Path) -> None:
    """Make the image of the agent: code, libraries, and `cascadia`."""
    shutil.rmtree(folder, ignore_errors=True)
    copy_agent(folder / "code", folder / "libraries")
    for name, content in _AGENT_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    run_tool(sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", str(folder), "-p", "/opt/cascadia", str(folder))
    filesystem(folder, image, AGENT_MIB, AGENT_LABEL)


def filesystem(folder: Path, image: Path, mib: int, label: str) -> None:
    """Make an ext4 image with the content of `folder`. Raises StepFailed."""
    image.unlink(missing_ok=True)
    run_tool("mkfs.ext4", "-q", "-F", "-L", label, "-E", "root_owner=0:0", "-d", str(folder), str(image), f"{mib}M")
