"""Real part: a small Debian with a real systemd as its PID 1, in systemd-nspawn. For units, sandboxes and packages.

A container is a layer over a root of `lab.debian_root`, which is never written. It shares the network of this machine,
so the cloud of this machine is at `localhost` for both. Every process of a container ends with the block of `Container`.

A container differs from a machine. It has no TPM device: `start_tpm` starts a software TPM with its resource manager,
and puts the agent into development mode. It has no udev, because its `/sys` is read-only. Its cgroups have no memory
or CPU controller where this machine's kernel gives them to the first version of cgroups; limits then have no effect.
"""

import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.agent_tree import CHECKOUT, copy_agent
from lab.guest import Done
from lab.processes import Process, StepFailed, start_program, wait_until

NEEDED = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
"""Program -> its Debian package."""
BOOT_SECONDS_MAX = 300.0
"""A boot takes 3 s on an idle machine."""
COMMAND_SECONDS_MAX = 300.0
LIBRARIES = "usr/lib/cascadia/lib"
TPM_TCTI = "tabrmd:bus_name=com.intel.tss2.Tabrmd,bus_type=system"

_START = """
set -eu
for group in $1; do echo 0 >"$group/cgroup.procs"; done
mount -t overlay overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work" "$3/root"
exec systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$3/root" --machine="$4" --link-journal=no \\
    --resolv-conf=copy-host --console=pipe --system-call-filter=bpf
"""
_ENVIRONMENT = ("HOME=/root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
_LAUNCHER = f"""#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, "/{LIBRARIES}")
from node.cli.main import main
sys.exit(main())
"""
_TPM_UNITS = {
    "lab-swtpm.service": "[Service]\nUser=tss\nRuntimeDirectory=lab-swtpm\nStateDirectory=lab-swtpm\n"
    "ExecStart=/usr/bin/swtpm socket --tpm2 --tpmstate dir=/var/lib/lab-swtpm --flags not-need-init,startup-clear "
    "--server type=unixio,path=/run/lab-swtpm/tpm --ctrl type=unixio,path=/run/lab-swtpm/tpm.ctrl\n",
    "lab-tpm.service": "[Unit]\nRequires=lab-swtpm.service\nAfter=lab-swtpm.service dbus.service\n[Service]\n"
    "Type=dbus\nBusName=com.intel.tss2.Tabrmd\nUser=tss\n"
    "ExecStartPre=/bin/sh -c 'until [ -S /run/lab-swtpm/tpm.ctrl ]; do sleep 0.1; done'\n"
    "ExecStart=/usr/sbin/tpm2-abrmd --tcti=swtpm:path=/run/lab-swtpm/tpm\n[Install]\nWantedBy=multi-user.target\n",
}
_DEVELOPMENT = f"""[Unit]
Wants=lab-tpm.service
After=lab-tpm.service
[Service]
Environment=CASCADIA_MODE=development "CASCADIA_TPM={TPM_TCTI}"
"""


def missing_packages() -> list[str]:
    """The Debian packages that this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted({package for program, package in NEEDED.items() if shutil.which(program, path=path) is None})


class Container:
    """One system. Its layer is in `directory`; `start` boots it. What it writes stays until the directory is removed."""

    def __init__(self, directory: Path, root: Path, name: str = "") -> None:
        """Boots nothing yet.

        Args:
            directory: a directory of its own, for the layer and the logs.
            root: the root below the layer (`lab.debian_root.debian_root`).
            name: the host name; by default that of the directory.
        """
        self.directory = directory.resolve()
        self.root = root
        self.name = name or directory.name
        self._process: Process | None = None
        self._groups: list[Path] = []
        for each in ("upper", "work", "root"):
            (self.directory / each).mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # Power

    def start(self, wait: bool = True) -> None:
        """Boot; with `wait`, return when every unit of the boot has started or failed. Raises StepFailed."""
        self._groups = _own_groups(f"lab-{self.name}-{os.getpid()}-{time.monotonic_ns()}")
        # Killing systemd-nspawn alone would leave its PID 1. Here it is itself the first process of a namespace, which the
        # kernel ends as a whole.
        command = [
            "unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", _START, "sh",
            " ".join(map(str, self._groups)), str(self.root), str(self.directory), self.name,
        ]  # fmt: skip
        # Its systemd then manages the second version of cgroups, as on Debian 12 and 13, whatever this machine has.
        env = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_LOG_LEVEL": "notice"}
        self._process = start_program(self.directory, "nspawn", command, env)
        if wait:
            self.wait_booted()

    def wait_booted(self) -> None:
        """Return when the boot is complete. Raises StepFailed."""
        wait_until(f"the boot of {self.name}", self._booted, BOOT_SECONDS_MAX)

    def _booted(self) -> bool:
        if self._process is None or not self._process.running:
            raise StepFailed(f"the container ended:\n{self._process.report() if self._process else ''}")
        if self.leader == 0:
            return False
        with suppress(StepFailed):
            return self.run("systemctl", "is-system-running").out.strip() in ("running", "degraded")
        return False

    @property
    def leader(self) -> int:
        """The process on this machine that is PID 1 of the container; 0 if there is none."""
        supervisors = _children(self._process.pid) if self._process is not None and self._process.running else []
        for supervisor in supervisors:
            for child in _children(supervisor):
                with suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                        return child
        return 0

    def reboot(self) -> None:
        """Reboot as a person does, and return when the boot is complete. Raises StepFailed."""
        self.run("systemctl", "reboot", "--no-block")
        self._ended()
        self.start()

    def off(self) -> None:
        """Shut down as a person does. Raises StepFailed."""
        self.run("systemctl", "poweroff", "--no-block")
        self._ended()

    def _ended(self) -> None:
        """Wait for the end of systemd-nspawn. With --keep-unit a reboot ends it too."""
        if self._process is not None:
            self._process.wait(BOOT_SECONDS_MAX)
        self.kill()

    def kill(self) -> None:
        """Cut the power: every process ends at once. What was written stays, unlike on a machine."""
        if self._process is not None:
            leader = self.leader
            self._process.kill()
            wait_until("the end of PID 1", lambda: not (leader and Path(f"/proc/{leader}").exists()), BOOT_SECONDS_MAX)
            self._process = None
        for group in self._groups:
            _remove_group(group)
        self._groups = []

    # Commands and files

    def run(self, *argv: str, given: str = "", seconds: float = COMMAND_SECONDS_MAX) -> Done:
        """Run a command as root in the container's namespaces, with `given` as its input. Raises StepFailed."""
        leader = self.leader
        if leader == 0:
            raise StepFailed(f"the container {self.name} does not run")
        command = ["nsenter", "--target", str(leader), "--all", "env", "-i", *_ENVIRONMENT, *argv]
        try:
            done = subprocess.run(
                command, input=given.encode(), capture_output=True, check=False, timeout=seconds, cwd="/"
            )
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"`{' '.join(argv)}` took more than {seconds:g} s in {self.name}") from error
        return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def checked(self, *argv: str, given: str = "", seconds: float = COMMAND_SECONDS_MAX) -> str:
        """The output of a command that must exit with 0. Raises StepFailed."""
        done = self.run(*argv, given=given, seconds=seconds)
        if done.status != 0:
            raise StepFailed(
                f"`{' '.join(argv)}` exited {done.status} in {self.name}: {(done.out + done.error)[-1500:]}"
            )
        return done.out

    def shown(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` prints them."""
        lines = self.checked("systemctl", "show", unit, f"--property={','.join(properties)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self, unit: str, *options: str) -> list[dict[str, Any]]:
        """The journal's records of a unit, with their fields."""
        lines = self.checked("journalctl", "--unit", unit, "--output=json", "--no-pager", *options).splitlines()
        return [json.loads(line) for line in lines]

    def path(self, name: str) -> Path:
        """Where this machine writes an absolute path of the container: through its PID 1, or in its layer."""
        leader = self.leader
        home = Path(f"/proc/{leader}/root") if leader else self.directory / "upper"
        return home / name.lstrip("/")

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file of the container, owned by root."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)

    # The agent

    def install(self, *packages: Path, seconds: float = COMMAND_SECONDS_MAX) -> str:
        """Install Debian packages that are files of this machine. Returns what apt printed. Raises StepFailed."""
        names = []
        for package in packages:
            self.write(f"/var/cache/lab/{package.name}", package.read_bytes())
            names.append(f"/var/cache/lab/{package.name}")
        options = ("--yes", "--no-install-recommends", "--allow-downgrades")
        return self.checked(
            "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", *options, *names, seconds=seconds
        )

    def install_checkout(self) -> None:
        """Install the agent of this checkout into the running container, as its package does. Raises StepFailed.

        The container has the release of this machine, because the compiled libraries are those of this machine.
        """
        ours, theirs = _python(Path("/")), _python(self.root)
        if ours != theirs:
            raise StepFailed(f"the libraries of this checkout are for {ours}, and the container has {theirs}")
        tree = self.path(LIBRARIES)
        shutil.rmtree(tree, ignore_errors=True)
        copy_agent(tree, tree)
        self.write("/usr/bin/cascadia", _LAUNCHER, 0o755)
        self.checked("python3", "-m", "compileall", "-q", f"/{LIBRARIES}")
        self.install_units()

    def install_units(self) -> None:
        """Install units, user, directories and presets of this checkout, as the package does. Raises StepFailed."""
        home = CHECKOUT / "packaging/cascadia"
        for source, target in (
            ("systemd", "/usr/lib/systemd/system"),
            ("sysusers.conf", "/usr/lib/sysusers.d/cascadia.conf"),
            ("tmpfiles.conf", "/usr/lib/tmpfiles.d/cascadia.conf"),
            ("90-cascadia.preset", "/usr/lib/systemd/system-preset/90-cascadia.preset"),
        ):
            for file in sorted(p for p in (home / source, *(home / source).rglob("*")) if p.is_file()):
                name = str(file.relative_to(home / source))
                self.write(target if name == "." else f"{target}/{name}", file.read_bytes())
        self.settle_units()

    def settle_units(self) -> None:
        """Make user and directories, and enable the units. The scripts of a package do this too; twice does no harm."""
        self.checked("systemd-sysusers", "cascadia.conf")
        self.checked("systemd-tmpfiles", "--create", "cascadia.conf")
        self.checked("systemctl", "daemon-reload")
        units = ("cascadia.service", "cascadia.socket", "cascadia-activated.path")
        self.checked("systemctl", "preset", *units)
        self.checked("systemctl", "start", "cascadia-activated.path")

    def start_tpm(self, chip: Path | None = None) -> None:
        """Start a software TPM, and have the agent use it in development mode, also after a reboot. Raises StepFailed.

        `chip` is the directory of a software TPM's state, which is copied. Without it the chip has no certificate.
        """
        for name, text in _TPM_UNITS.items():
            self.write(f"/etc/systemd/system/{name}", text)
        self.write("/etc/systemd/system/cascadia.service.d/lab.conf", _DEVELOPMENT)
        self.write("/etc/environment", f'CASCADIA_MODE=development\nCASCADIA_TPM="{TPM_TCTI}"\n')
        if chip is not None:
            for file in chip.glob("tpm2-*"):
                self.write(f"/var/lib/lab-swtpm/{file.name}", file.read_bytes())
            self.checked("chown", "-R", "tss:tss", "/var/lib/lab-swtpm")
        self.checked("systemctl", "daemon-reload")
        self.checked("systemctl", "enable", "--now", "lab-tpm.service")

    def cascadia(self, *argv: str, seconds: float = COMMAND_SECONDS_MAX) -> Done:
        """Run a `cascadia` command with `--json`, as root, with the TPM of `start_tpm`."""
        mode = ("CASCADIA_MODE=development", f"CASCADIA_TPM={TPM_TCTI}")
        return self.run("env", *mode, "cascadia", *argv, "--json", seconds=seconds)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _python(root: Path) -> str:
    return (root / "usr/bin/python3").resolve().name


def _own_groups(name: str) -> list[Path]:
    """New cgroups below those of this process, so that containers do not share one: its own in each tree of systemd."""
    found = []
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], fields[-1]
        for number, controllers, path in own:
            unified = kind == "cgroup2" and number == "0"
            if unified or (kind == "cgroup" and controllers == "name=systemd" and "name=systemd" in options):
                group = Path(fields[4]) / path.lstrip("/") / name
                group.mkdir()
                found.append(group)
    if not found:
        raise StepFailed("this machine has no cgroups of systemd")
    return found


def _remove_group(group: Path) -> None:
    """Remove an empty cgroup with those below it."""
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
