"""Packages on whole machines: install from the repository, activate, gate, reboot, upgrade, revoke, readmit, purge.

`make test-system` runs this drill. Each machine is a Debian in QEMU with the kernel's TPM and systemd as PID 1. It
installs `cascadia` with apt from the built and signed repository, in production mode. The cloud is installed from
`cascade-cloud` into a container (systemd-nspawn). The signing key is a throwaway key. Needs root and a network.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lab.debian_root import Release, debian_root
from lab.guest import Guest
from lab.guest_image import missing_packages as missing_for_machines
from lab.nspawn import Container
from lab.nspawn import missing_packages as missing_for_containers
from lab.packaged_guest import packaged_image
from lab.processes import StepFailed, free_ports
from lab.tpm import SoftTpm
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.package_server import public_key, served
from tools.packages import root

USUAL_TIME = "30 min"
MINUTES_MAX = 120.0

REPOSITORY = Path(__file__).parent.parent.parent
VERSIONS = ("0.1.0", "0.1.1")
TARGETS: dict[Release, str] = {"bookworm": "debian12", "trixie": "debian13"}
WAIT_SECONDS = 300.0
"""How long a change may take to reach a program of the machine. QEMU without KVM is ten to thirty times slower."""
POLL_SECONDS = 1.0
CONNECTIONS = 1000
STARTS_MAX = 3
"""Starts of the agent that 1,000 connections to the socket may cause."""
PAUSE_SECONDS_MAX = 1.0
"""How much longer a gated program may pause during an upgrade than the ungated one. The guest is slow: all pause."""
UNIT_STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
"""MESSAGE_ID of systemd for each start of a unit (systemd.journal-fields(7))."""

SOURCES = """Types: deb
URIs: http://10.0.2.2:{port}
Suites: {suite}
Components: main
Signed-By: /etc/apt/keyrings/cascade-archive-keyring.asc
"""
PROGRAM = """import os, sys, time
with open(f"/var/tmp/{sys.argv[1]}.beats", "a", buffering=1) as beats:
    while True:
        beats.write(f"{os.getpid()} {time.clock_gettime(time.CLOCK_BOOTTIME):.2f}\\n")
        time.sleep(0.5)
"""
VENDOR = """[Unit]
Description=Program of a vendor
{line}

[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/vendor.py {name}

[Install]
WantedBy=multi-user.target
"""
GATED = {"vendor-main": "X-Cascadia-Licence=yes", "vendor-vision": "X-Cascadia-Entitlement=vision"}
"""Units of the vendor -> the line that gates them."""
UNGATED = "vendor-free"
"""The same program without the line."""
CONNECT = f"""import socket
answered = 0
for _ in range({CONNECTIONS}):
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(5)
    try:
        link.connect("/run/cascadia/cascadia.sock")
        answered += 1
    except OSError:
        pass
    link.close()
print(answered)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the releases, and where roots, images and built packages are kept."""
    parser.add_argument("--suite", choices=sorted(TARGETS), help="one release only (default: both)")
    parser.add_argument(
        "--packages", type=Path, help="keep the built packages here, and use those that are there (default: build them)"
    )
    parser.add_argument(
        "--cache", type=Path, default=REPOSITORY / "build", help="keeps roots, images and parts of packages (build)"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Build the packages, install the cloud, then take one machine of each release through its life."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    missing = {*missing_for_containers(), *missing_for_machines(), *root.missing_packages(root.NEEDED)}
    if missing:
        raise CannotRun(
            f"programs are missing. Run `apt-get install --no-install-recommends {' '.join(sorted(missing))}`"
        )
    suites: list[Release] = [options.suite] if options.suite else list(TARGETS)
    cache = options.cache.resolve()
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    # Below /tmp: the path of a unix socket is short.
    with (
        tempfile.TemporaryDirectory(prefix="system-", dir="/tmp", ignore_cleanup_errors=True) as name,
        ExitStack() as ends,
    ):
        folder = Path(name)
        say("packages")
        home = options.packages or folder
        built = {suite: [_built(cache, home, version, suite) for version in VERSIONS] for suite in suites}
        package = next(_built(cache, home, VERSIONS[0], "bookworm", "cascade-cloud").glob("cascade-cloud_*.deb"))
        say("the cloud")
        chips = {suite: SoftTpm(folder / f"chip-{suite}") for suite in suites}
        for chip in chips.values():
            chip.manufacture()
        host = ends.enter_context(Container(folder / "cloud", debian_root(cache / "roots", "bookworm"), "cloud"))
        cloud = Installed(host, package)
        for suite in suites:
            say(f"the machine of {suite}")
            image = packaged_image(cache / "roots", suite)
            with Guest(folder / suite, image, chips[suite].directory) as guest:
                life = Life(suite, guest, cloud, chips[suite], built[suite], say)
                life.run()
            figures |= {f"{suite}: {name}": figure for name, figure in life.figures.items()}
            findings += [f"{suite}: {each}" for each in life.findings]
    return Outcome(figures, tuple(findings))


def _built(cache: Path, folder: Path, version: str, suite: Release, package: str = "cascadia") -> Path:
    """The folder of a build: the packages, the public key, and the repository."""
    to = folder / f"{package}-{version}-{suite}"
    if to.exists():
        return to
    command = [sys.executable, "-m", "tools.packages", "--only", package, "--target", TARGETS[suite], "--throwaway-key"]
    command += ["--version", version, "--to", str(to), "--cache", str(cache / "packages")]
    if subprocess.run(command, check=False, cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode != 0:
        raise CannotRun("the packages cannot be built. See the text above")
    return to


class Installed:
    """The cloud, installed from its package into a container that shares the network of this machine."""

    def __init__(self, host: Container, package: Path) -> None:
        self.host = host
        host.start()
        host.checked("apt-get", "update", "--quiet")
        host.install(package)
        port = free_ports(6)
        host.checked(
            "/bin/sh",
            "-ec",
            f"cd /root; cascade init --host localhost --bind 127.0.0.1 --port-base {port}; systemctl enable --now cascade",
        )

    def run(self, *argv: str) -> Any:
        """The document of a `cascade` command of root. Raises StepFailed."""
        return json.loads(self.host.checked("cascade", *argv, "--json"))

    def code(self, tenant: str, *options: str) -> str:
        """The content of a new activation file."""
        name = f"/root/activation-{time.monotonic_ns()}.json"
        self.run("code", "create", tenant, "--entitlement", "vision", "--out", name, *options)
        return self.host.path(name).read_text()

    @contextmanager
    def away(self) -> Iterator[None]:
        """The cloud does not run in this block."""
        self.host.checked("systemctl", "stop", "cascade")
        try:
            yield
        finally:
            self.host.checked("systemctl", "start", "cascade")


class Life:
    """The life of one machine, step by step. A step that cannot go on is a finding, and ends the machine's life."""

    def __init__(
        self, suite: Release, guest: Guest, cloud: Installed, chip: SoftTpm, built: list[Path], say: Say
    ) -> None:
        self.suite = suite
        self.guest = guest
        self.cloud = cloud
        self.chip = chip
        self.old, self.new = built
        self.say = say
        self.tenant = self.node = ""
        self.figures: dict[str, Figure] = {}
        self.findings: list[str] = []

    def run(self) -> None:
        """Every step."""
        steps = (
            self.install, self.storm_unactivated, self.activate, self.suspend, self.resume, self.reboot_alone,
            self.upgrade, self.revoke, self.storm_revoked, self.readmit, self.purge,
        )  # fmt: skip
        for step in steps:
            begun = time.monotonic()
            try:
                step()
            except StepFailed as error:
                self.findings.append(f"{step.__name__}: {error}")
            took = time.monotonic() - begun
            self.say(f"{self.suite}: {step.__name__}: {'found' if self.findings else 'good'}, {took:.0f} s")
            self.figures[f"{step.__name__}, seconds"] = round(took)
            if self.findings:
                self.findings.append(self.guest.run("journalctl", "--no-pager", "--lines=40").out[-4000:])
                return

    # Helpers

    def expect(self, what: str, good: bool, found: object = "") -> None:
        """Add a finding unless `good`."""
        if not good:
            self.findings.append(f"{what}: {found}")

    def shell(self, text: str, seconds: float = WAIT_SECONDS) -> str:
        """The output of a shell command of root that must succeed. Raises StepFailed."""
        return self.guest.checked("/bin/sh", "-ec", text, seconds=seconds)

    def shown(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` prints them."""
        lines = self.guest.checked("systemctl", "show", unit, f"--property={','.join(properties)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def active(self, unit: str) -> bool:
        """Whether a unit runs."""
        return self.shown(unit, "ActiveState")["ActiveState"] == "active"

    def starts(self) -> int:
        """How often systemd started the agent since the boot."""
        text = f"journalctl --boot --quiet --output=cat MESSAGE_ID={UNIT_STARTING} UNIT=cascadia.service | wc -l"
        return int(self.shell(text))

    def wait(self, what: str, good: Callable[[], bool]) -> float:
        """Wait until `good`. The seconds that it took. Raises StepFailed."""
        begun = time.monotonic()
        while not good():
            if time.monotonic() - begun > WAIT_SECONDS:
                raise StepFailed(f"{what}: not within {WAIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        return round(time.monotonic() - begun, 1)

    def wait_programs(self, what: str, running: bool) -> None:
        """Wait until every program of the vendor runs, or until none does."""
        took = self.wait(what, lambda: all(self.active(name) == running for name in GATED))
        self.figures[f"{what}, seconds"] = took

    def state(self) -> str:
        """The state of the licence as the agent's socket reports it."""
        document = self.guest.ask("/v1/license")
        return str(document["state"]) if document else "no agent"

    def apt(self, *argv: str) -> str:
        """Run apt-get as a person does, without questions. Raises StepFailed."""
        return self.shell(f"DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes {' '.join(argv)}", 3 * WAIT_SECONDS)

    # Steps

    def install(self) -> None:
        """The repository is added as the page says. The agent is installed, and its start is skipped."""
        self.guest.start()
        self.figures["boot, seconds"] = round(self.guest.boot_seconds[-1], 1)
        self.wait("the network", lambda: "default" in self.shell("ip route"))
        self.shell("rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*")
        self.guest.write("/etc/apt/keyrings/cascade-archive-keyring.asc", public_key(self.old).decode())
        self.shell("chmod 644 /etc/apt/keyrings/cascade-archive-keyring.asc")
        self._install_from(self.old, "cascadia")
        self.figures["installed size, MB"] = int(self.shell("du -sm /usr/lib/cascadia | cut -f1"))
        self.guest.run("systemctl", "start", "cascadia")
        shown = self.shown("cascadia", "ActiveState", "ConditionResult", "Result")
        good = shown == {"ActiveState": "inactive", "ConditionResult": "no", "Result": "success"}
        self.expect("the start is skipped before an activation", good, shown)
        self.guest.write("/usr/local/lib/vendor.py", PROGRAM)
        for name, line in {**GATED, UNGATED: ""}.items():
            unit = f"/etc/systemd/system/{name}.service"
            self.guest.write(unit, VENDOR.format(line=line, name=name))
            self.guest.checked("chmod", "644", unit)
        self.shell(
            f"chmod 644 /usr/local/lib/vendor.py; systemctl daemon-reload; systemctl enable {' '.join((*GATED, UNGATED))}"
        )
        self.guest.run("systemctl", "start", "--no-block", *GATED, UNGATED)
        self.expect("no program runs before an activation", not any(self.active(name) for name in GATED))

    def _install_from(self, built: Path, *packages: str) -> None:
        with served(built / "repo") as port:
            text = SOURCES.format(port=port, suite=self.suite)
            self.guest.write("/etc/apt/sources.list.d/cascade.sources", text)
            self.shell("chmod 644 /etc/apt/sources.list.d/cascade.sources")
            self.apt("update")
            self.apt("install", "--no-install-recommends", *packages)

    def storm_unactivated(self) -> None:
        """1,000 connections to the socket of a machine that is not activated start nothing."""
        self._storm("unactivated")

    def _storm(self, when: str) -> None:
        before = self.starts()
        answered = self.guest.checked("/usr/bin/python3", "-c", CONNECT, seconds=WAIT_SECONDS).strip()
        self.figures[f"{when}: connections that were accepted"] = int(answered)
        time.sleep(10)
        starts = self.starts() - before
        self.figures[f"{when}: starts of the agent"] = starts
        self.expect(f"{when}: a storm of starts", starts <= STARTS_MAX, starts)
        for unit in ("cascadia.service", "cascadia.socket"):
            result = self.shown(unit, "Result")["Result"]
            self.expect(f"{when}: {unit}", "limit" not in result, result)

    def activate(self) -> None:
        """One command activates; agent and programs then start by themselves."""
        self.tenant = str(self.cloud.run("tenant", "create", f"acme-{self.suite}")["id"])
        roots = self.chip.ek_roots_pem.read_text() + self.chip.ek_intermediates_pem.read_text()
        self.cloud.host.write("/root/roots.pem", roots)
        self.cloud.run("hardware", "add-root", self.tenant, "/root/roots.pem")
        self._activate()
        licence = self.guest.ask("/v1/license")
        self.node = str(licence["node"])
        status = self.guest.ask("/v1/status")
        self.expect("production mode", status["mode"] == "production", status["mode"])
        self.expect("a hardware floor", bool(status["floor"]["index"]), status["floor"])
        owner = self.shell("stat --format=%U:%a /var/lib/cascadia /dev/tpmrm0").split()
        self.figures["state and TPM belong to"] = " ".join(owner)
        user = self.shell("ps -o user= -p $(systemctl show --property=MainPID --value cascadia)").strip()
        self.expect("the agent's user", user == "cascadia", user)
        memory = int(self.shown("cascadia", "MemoryCurrent")["MemoryCurrent"])
        self.figures["memory of the agent's cgroup, MiB"] = round(memory / 2**20, 1)

    def _activate(self, *options: str) -> None:
        self.guest.write("/root/activation.json", self.cloud.code(self.tenant, *options))
        done = self.guest.run("cascadia", "activate", "/root/activation.json", seconds=3 * WAIT_SECONDS)
        if done.status != 0:
            raise StepFailed(f"`cascadia activate` exited {done.status}: {(done.out + done.error)[-1500:]}")
        self.wait("the agent is active", lambda: self.state() == "active")
        self.wait_programs("activation to programs", running=True)

    def suspend(self) -> None:
        """A suspension stops the programs."""
        self.cloud.run("node", "suspend", self.node)
        self.wait_programs("suspension to programs", running=False)
        self.expect("suspended", self.state() == "suspended", self.state())
        done = self.guest.run("systemctl", "start", "vendor-vision", seconds=WAIT_SECONDS)
        self.expect("a suspended program does not start", done.status != 0 and not self.active("vendor-vision"))

    def resume(self) -> None:
        """A resume starts them."""
        self.cloud.run("node", "resume", self.node)
        self.wait_programs("resume to programs", running=True)

    def reboot_alone(self) -> None:
        """A reboot without the cloud brings the programs up on the cached lease."""
        with self.cloud.away():
            self.guest.off()
            self.guest.start()
            self.wait_programs("boot without a cloud to programs", running=True)
            self.expect("the licence without a cloud", self.state() == "active", self.state())

    def upgrade(self) -> None:
        """A new agent takes over, and the programs miss nothing."""
        before = {name: self.shown(name, "MainPID") for name in GATED}
        agent = self.shown("cascadia", "MainPID")["MainPID"]
        self._install_from(self.new, "cascadia")
        version = self.shell("dpkg-query --show --showformat='${Version}' cascadia")
        self.expect("the version", version.startswith(VERSIONS[1]), version)
        self.wait("the new agent is active", lambda: self.state() == "active")
        self.expect("another process", self.shown("cascadia", "MainPID")["MainPID"] != agent)
        # The gate must have seen the new agent before the beats are read.
        time.sleep(70)
        after = {name: self.shown(name, "MainPID") for name in GATED}
        self.expect("the same processes of the vendor", before == after, (before, after))
        pauses = {name: self._pause(name) for name in (*GATED, UNGATED)}
        for name, pause in pauses.items():
            self.figures[f"longest pause of {name} during an upgrade, seconds"] = pause
            self.expect(f"{name} was interrupted", pause <= pauses[UNGATED] + PAUSE_SECONDS_MAX, pauses)

    def _pause(self, name: str) -> float:
        """The longest pause between two beats of the process that runs, in seconds."""
        beats = [line.split() for line in self.shell(f"cat /var/tmp/{name}.beats").splitlines()]
        process = beats[-1][0]
        latest = [float(at) for pid, at in beats if pid == process]
        return round(max(later - earlier for earlier, later in itertools.pairwise(latest)), 2)

    def revoke(self) -> None:
        """A revocation stops the programs. The next start of the agent hard-fails, and is not repeated."""
        self.cloud.run("node", "revoke", self.node)
        self.wait_programs("revocation to programs", running=False)
        self.guest.run("systemctl", "stop", "cascadia", seconds=WAIT_SECONDS)
        begun = self.starts()
        done = self.guest.run("systemctl", "start", "cascadia", seconds=WAIT_SECONDS)
        shown = self.shown("cascadia", "ActiveState", "ExecMainStatus", "NRestarts")
        good = done.status != 0 and shown == {"ActiveState": "failed", "ExecMainStatus": "81", "NRestarts": "0"}
        self.expect("the start of a revoked agent", good, (done.status, shown))
        time.sleep(30)
        self.expect("one start", self.starts() - begun == 1, self.starts() - begun)
        self.guest.off()
        self.guest.start()
        self.wait(
            "the boot's start has failed", lambda: self.shown("cascadia", "ActiveState")["ActiveState"] == "failed"
        )
        self.expect("no program runs after a reboot", not any(self.active(name) for name in GATED))

    def storm_revoked(self) -> None:
        """1,000 connections to the socket of a revoked machine start next to nothing."""
        self._storm("revoked")

    def readmit(self) -> None:
        """`cascadia activate` with a code that readmits the node is all that is needed."""
        self._activate("--readmit", self.node)
        self.expect("the same node", self.guest.ask("/v1/license")["node"] == self.node)

    def purge(self) -> None:
        """A purge hands the seat back, and leaves nothing in the TPM or on the disk."""
        said = self.apt("purge", "cascadia")
        self.figures["the purge says"] = " / ".join(line for line in said.splitlines() if "seat" in line)[:300]
        taken = sum(code["seats_taken"] for code in self.cloud.run("code", "list", self.tenant))
        self.expect("the seat is free", taken == 0, taken)
        for kind in ("handles-persistent", "handles-nv-index"):
            left = self.guest.checked("tpm2_getcap", kind).strip()
            self.expect(f"{kind} after a purge", "0x01A" not in left.upper().replace("0X", "0x"), left)
            self.figures[f"{kind} after a purge"] = left.replace("\n", " ") or "none"
        self.shell("test ! -e /var/lib/cascadia; test ! -e /etc/cascadia; test ! -e /usr/lib/cascadia")
        self.wait("the programs end", lambda: not any(self.active(name) for name in GATED))
