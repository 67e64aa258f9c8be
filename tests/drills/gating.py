"""Vendors' units that ask for the licence, on a real systemd: started, stopped, left alone, as the table of rows says.

Each row is a function on a `Site`: a container of Debian with the package of this checkout, and a cloud on this machine.
The units are those of `packaging/cascadia/examples`. A row finds what the row before has left, so a row that fails is
a finding and ends the rows of its release.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from lab.cloud import Cloud
from lab.debian_root import Release, debian_root
from lab.nspawn import Container, missing_packages
from lab.processes import StepFailed, ended, wait_until
from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.gate_flood import flood
from tests.system.support.harness import new_cloud
from tools.packages import command as packages

USUAL_TIME = "25 min"
MINUTES_MAX = 90.0

REPOSITORY = Path(__file__).parent.parent.parent
EXAMPLES = REPOSITORY / "packaging/cascadia/examples"
RELEASES: dict[Release, str] = {"bookworm": "debian12", "trixie": "debian13"}
CONTAINERS = ("podman", "crun", "netavark", "busybox-static")
"""Packages of the roots for the rows with podman. The image is made from busybox, so no registry is asked."""

PROMISE_SECONDS = 5.0
"""How soon a unit follows a decision of the cloud while the agent is connected."""
VALID_SECONDS = 60.0
"""The longest time for which an answer of the agent counts."""
SLACK_SECONDS = 6.0
"""For a question that is under way when an answer ends, and for a machine that is busy."""

VISION, CORE, REPORT, TIMER = "acme-vision.service", "acme-core.service", "acme-report.service", "acme-report.timer"
SECOND = "acme-second.service"
GATE = "cascadia-gate@vision.service"
PROGRAM = """#!/bin/sh
echo "$(date +%s.%N) $1" >>/var/lib/acme/log
trap 'exit 0' TERM
while :; do sleep 0.2; done
"""
LAB_OPTIONS = "--cgroups=disabled --ulimit=host"
"""A container in the container of the lab: the one outside has no controllers of cgroups, and may not raise limits."""
IMAGE = """set -eu
mkdir -p /etc/containers /tmp/image/bin
# The file system of the container is a layer itself, on which podman cannot put its own.
printf '[storage]\\ndriver = "vfs"\\nrunroot = "/run/containers/storage"\\ngraphroot = "/var/lib/containers/storage"\\n' \\
    >/etc/containers/storage.conf
# systemd-nspawn allows no keyrings.
printf '[containers]\\nkeyring = false\\n' >/etc/containers/containers.conf
cp /bin/busybox /tmp/image/bin/busybox
printf '#!/bin/busybox sh\\ntrap "exit 0" TERM\\nwhile :; do /bin/busybox sleep 0.2; done\\n' >/tmp/image/bin/program
chmod 0755 /tmp/image/bin/program
tar -C /tmp/image -c . | podman import --change 'CMD ["/bin/program"]' - localhost/acme-vision:1
"""


class Site:
    """A machine with the agent's package and the vendor's units, and its cloud."""

    def __init__(self, machine: Container, cloud: Cloud, tenant: str, say: Say) -> None:
        self.machine = machine
        self.cloud = cloud
        self.tenant = tenant
        self.say = say
        self.figures: dict[str, Figure] = {}
        self.node = ""

    # What the operator does

    def activate(self, *options: str, entitlement: str = "vision") -> None:
        """Activate the machine with a new code."""
        file = self.cloud.code(self.tenant, *options, entitlement=entitlement)
        self.machine.write("/root/activation.json", file.read_bytes(), 0o600)
        done = self.machine.cascadia("activate", "/root/activation.json")
        if done.status != 0:
            raise StepFailed(f"`cascadia activate` exited {done.status}: {(done.out + done.error)[-1000:]}")
        self.node = str(self.cloud.run("node", "list", "--tenant", self.tenant)[0]["id"])

    def stand(self, verb: str) -> None:
        """Suspend, resume or revoke the node."""
        reason = [] if verb == "resume" else ["--reason", "drill"]
        self.cloud.run("node", verb, self.node, *reason)

    # What systemd says

    def is_active(self, unit: str) -> bool:
        """Whether a unit is active."""
        return self._state(unit) == "active"

    def _state(self, unit: str) -> str:
        return self.machine.shown(unit, "ActiveState")["ActiveState"]

    def main_pid(self, unit: str) -> int:
        """The main process of a unit; 0 if there is none."""
        return int(self.machine.shown(unit, "MainPID")["MainPID"])

    def status(self, unit: str) -> str:
        """What `systemctl status` prints."""
        return self.machine.run("systemctl", "status", "--no-pager", "--full", unit).out

    def gate_starts(self, unit: str = GATE) -> int:
        """How often a gate's program was started in this boot."""
        lines = self.machine.checked("journalctl", "-b", "--no-pager", "-o", "cat", "-u", unit)
        return lines.count("Starting cascadia-gate@")

    # Waits

    def follows(self, what: str, unit: str, active: bool, seconds: float = PROMISE_SECONDS) -> None:
        """Wait until a unit is active, or is not. The time becomes a figure."""
        begun, states = time.monotonic(), ("active",) if active else ("inactive", "failed")
        wait_until(f"{what}: {unit} is {states[0]}", lambda: self._state(unit) in states, 180)
        took = time.monotonic() - begun
        self.figures[what] = round(took, 2)
        if took > seconds:
            raise StepFailed(f"{what}: {unit} took {took:.1f} s, and {seconds:.0f} s are promised")

    def stays(self, what: str, seconds: float, holds: Callable[[], bool]) -> None:
        """Check once a second that something holds."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            require(holds(), f"no longer: {what}")
            time.sleep(1.0)

    def untouched(self, what: str, act: Callable[[], object]) -> None:
        """Check that the process of the vendor's program is the same after an event."""
        before = self.main_pid(VISION)
        require(before > 0, f"{what}: the program does not run")
        act()
        require(self.main_pid(VISION) == before, f"{what}: the vendor's program was touched")


def require(condition: object, finding: str) -> None:
    """Raise StepFailed with the finding unless the condition holds."""
    if not condition:
        raise StepFailed(finding)


# Rows


def unactivated(site: Site) -> None:
    """Nothing starts, nothing fails, and a person finds out why."""
    done = site.machine.run("systemctl", "start", VISION)
    require(done.status != 0, "a unit of an unactivated machine was started")
    text = site.status(VISION)
    require("AssertPathExists=/run/cascadia/granted/vision was not met" in text, f"no reason in the status:\n{text}")
    site.machine.reboot()
    failed = site.machine.checked("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    require("acme" not in failed and "cascadia" not in failed, f"units failed at the boot:\n{failed}")
    require(site.gate_starts() == 0, "a gate was started without a grant")
    require(site.machine.shown(GATE, "ConditionResult")["ConditionResult"] == "no", "the gate was not skipped")


def granted(site: Site) -> None:
    """The activation alone starts every unit of a grant, and no other."""
    site.activate("--entitlement", "sound")
    site.follows("started by an activation", VISION, True, 20.0)
    for unit in (SECOND, CORE):
        site.follows(f"started by an activation, {unit}", unit, True)
    require(not site.is_active(TIMER), "a unit without a grant was started")
    require("granted" in site.status(GATE), "the gate does not say that it is granted")
    site.figures["resident memory of a gate, kB"] = _resident(site, GATE)


def _resident(site: Site, unit: str) -> int:
    status = (site.machine.path("/proc") / str(site.main_pid(unit)) / "status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def suspended(site: Site) -> None:
    """Every unit stops, a start fails with its reason, and nothing is tried again and again."""
    site.stand("suspend")
    for unit in (VISION, SECOND, CORE):
        site.follows(f"stopped by a suspension, {unit}", unit, False)
    done = site.machine.run("systemctl", "start", VISION)
    require(done.status == 1 and "Assertion failed" in done.error, f"a start did not fail: {done}")
    require("was not met" in site.status(VISION), "no reason in the status of the unit")
    text = site.status(GATE)
    require("denied: " in text and "suspended" in text, f"no reason in the status of the gate:\n{text}")
    require("status=3" in text, f"another exit status of the gate:\n{text}")
    starts = site.gate_starts()
    site.stays("the units are stopped", 10, lambda: not site.is_active(VISION) and not site.is_active(CORE))
    require(site.gate_starts() == starts, "the gate was started again while it is denied")


def resumed(site: Site) -> None:
    """The units start again without a command."""
    site.stand("resume")
    for unit in (VISION, SECOND, CORE):
        site.follows(f"started by a resumption, {unit}", unit, True)


def flooded(site: Site) -> None:
    """While another user fills the agent's public socket, no question of a gate misses its time."""

    def fill() -> None:
        questions, missed = flood(site.machine, site.figures)
        require(questions > 0 and missed == 0, f"{missed} of {questions} questions of a gate were not answered in time")

    site.untouched("a flood of connections", fill)


def agent_away(site: Site) -> None:
    """A restart, an end by SIGKILL and a stop of the agent are not noticed while its last answer counts."""
    systemctl = site.machine.checked
    site.untouched("a restart of the agent", lambda: systemctl("systemctl", "restart", "cascadia.service"))

    def killed() -> None:
        systemctl("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "cascadia.service")
        wait_until("the agent after SIGKILL", lambda: site.is_active("cascadia.service"), 60)

    site.untouched("SIGKILL of the agent", killed)

    def stopped() -> None:
        systemctl("systemctl", "stop", "cascadia.service")
        site.stays("the program runs", 40, lambda: site.is_active(VISION))
        systemctl("systemctl", "start", "cascadia.service")

    site.untouched("a stop of the agent for 40 s", stopped)
    site.stays("the program runs", 5, lambda: site.is_active(VISION))


def agent_gone(site: Site) -> None:
    """Without the agent, or with one that hangs, the last answer ends. The agent's return starts the units."""
    for what, away, back in (
        ("stopped", ("systemctl", "stop", "cascadia.service"), ("systemctl", "start", "cascadia.service")),
        (
            "frozen",
            ("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "cascadia.service"),
            ("systemctl", "kill", "--kill-whom=main", "--signal=CONT", "cascadia.service"),
        ),
    ):
        site.machine.checked(*away)
        site.follows(f"ended by an agent that is {what}", VISION, False, VALID_SECONDS + SLACK_SECONDS)
        text = site.status(GATE)
        require("status=69" in text and "the last answer has ended" in text, f"no reason at the gate:\n{text}")
        starts = site.gate_starts()
        site.stays("the program is stopped", 5, lambda: not site.is_active(VISION))
        require(site.gate_starts() == starts, "the gate was started again without an agent")
        site.machine.checked(*back)
        site.follows(f"started by the return of an agent that was {what}", VISION, True, 30.0)
    # The cloud has cut the wake channel of a frozen agent, which opens it again within minutes. A new start opens it now.
    site.untouched("a restart", lambda: site.machine.checked("systemctl", "restart", "cascadia.service"))


def own_faults(site: Site) -> None:
    """A crash of the vendor's program is its own business. A crash of the gate stops the program for some seconds."""
    before = site.main_pid(GATE)
    pid = site.main_pid(VISION)
    site.machine.checked("systemctl", "kill", "--kill-whom=main", "--signal=KILL", VISION)
    wait_until("the program's own restart", lambda: site.main_pid(VISION) not in (0, pid), 20)
    require(site.main_pid(GATE) == before, "a crash of the program touched the gate")
    site.machine.checked("systemctl", "kill", "--kill-whom=main", "--signal=KILL", GATE)
    wait_until("the end of the program", lambda: not site.is_active(VISION), 10)
    site.follows("started after a crash of the gate", VISION, True, 10.0)


def disabled(site: Site) -> None:
    """A unit that is not enabled is stopped, and is not started by a grant. A person starts it."""
    site.machine.checked("systemctl", "disable", SECOND)
    site.stand("suspend")
    site.follows("stopped, not enabled", SECOND, False)
    site.stand("resume")
    site.follows("started beside one that is not enabled", VISION, True)
    site.stays("the unit is stopped", 3, lambda: not site.is_active(SECOND))
    site.machine.checked("systemctl", "start", SECOND)
    site.machine.checked("systemctl", "enable", SECOND)
    require(site.is_active(SECOND), "a person could not start the unit")


def offline_reboot(site: Site) -> None:
    """A boot without the cloud brings the units up on the stored lease."""
    site.cloud.down()
    site.machine.reboot()
    site.follows("started by a boot without the cloud", VISION, True, 30.0)
    site.figures["the boot without the cloud"] = site.machine.checked("systemd-analyze", "time").splitlines()[0]
    require(site.is_active(CORE) and site.is_active(SECOND), "a unit did not start at the boot")
    site.cloud.up()


def other_entitlements(site: Site) -> None:
    """A lease without the entitlement stops its units alone. An entitlement ends at its date, while the agent runs."""
    until = (datetime.now(UTC) + timedelta(seconds=75)).strftime("%Y-%m-%dT%H:%M:%SZ")
    site.activate(entitlement=f"reports:until={until}")
    site.follows("stopped by a lease without the entitlement", VISION, False, 30.0)
    site.follows("started by another entitlement", TIMER, True, 30.0)
    require(site.is_active(CORE), "a unit of the licence as a whole was stopped")
    site.machine.checked("systemctl", "start", REPORT)
    site.follows("stopped at the end of the entitlement", TIMER, False, 90.0)
    late = (datetime.now(UTC) - datetime.fromisoformat(until)).total_seconds()
    site.figures["stopped after the end of the entitlement, s"] = round(late, 1)
    require(-2 <= late <= PROMISE_SECONDS + 3, f"the entitlement ended {late:.1f} s after its date")
    require(site.machine.run("systemctl", "start", REPORT).status != 0, "a job ran after the end of its entitlement")


def dates(site: Site) -> None:
    """Past its grace a lease still lets the units run. They end with the lease, and start with the next one."""
    site.activate("--lease-seconds", "5,10,15,60")
    site.follows("started by a short lease", VISION, True, 30.0)
    site.cloud.down()

    def state() -> str:
        return str(msgspec.json.decode(site.machine.cascadia("status").out)["license"]["state"])

    wait_until("the end of the grace", lambda: state() == "restricted", 60)
    site.stays("the program runs past the grace", 3, lambda: site.is_active(VISION))
    site.follows("stopped by the end of the lease, after its grace", VISION, False, 60.0)
    require(state() == "terminated", f"the lease is {state()}")
    require("denied: the lease has terminated" in site.status(GATE), "no reason in the status of the gate")
    site.cloud.up()
    site.machine.cascadia("renew")
    site.follows("started by a new lease", VISION, True)


def revoked(site: Site) -> None:
    """Every unit stops and cannot be started, also after a boot; a boot has no failed unit of the vendor."""
    site.activate()
    site.follows("started before the revocation", VISION, True, 30.0)
    site.stand("revoke")
    for unit in (VISION, SECOND, CORE):
        site.follows(f"stopped by a revocation, {unit}", unit, False)
    require("status=3" in site.status(GATE), "another exit status of the gate")
    for _ in range(2):
        require(site.machine.run("systemctl", "start", VISION).status == 1, "a revoked machine started the program")
        starts = site.gate_starts()
        site.stays("the program is stopped", 5, lambda: not site.is_active(VISION))
        require(site.gate_starts() == starts, "the gate was started again after the revocation")
        site.machine.reboot()
    failed = site.machine.checked("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    require("acme" not in failed and "cascadia-gate" not in failed, f"units failed at the boot:\n{failed}")


def readmitted(site: Site) -> None:
    """An activation with a readmission code starts agent and units; no other command is typed."""
    site.activate("--readmit", site.node)
    site.follows("started by a readmission", VISION, True, 30.0)


def container(site: Site) -> None:
    """A container under podman is started and stopped by the grant: a plain unit on Debian 12, a quadlet on 13."""
    site.machine.checked("/bin/sh", "-c", IMAGE)
    if site.machine.path("/usr/lib/systemd/system-generators/podman-system-generator").exists():
        unit = "acme-vision-quadlet.service"
        source = EXAMPLES / "acme-vision-quadlet.container"
        site.machine.write(f"/etc/containers/systemd/{source.name}", source.read_bytes())
        lab = f"[Container]\nPodmanArgs={LAB_OPTIONS}\n"
        site.machine.write(f"/etc/containers/systemd/{source.name}.d/lab.conf", lab)
    else:
        unit = "acme-vision-podman.service"
        text = (EXAMPLES / unit).read_text()
        require("--cgroups=no-conmon" in text, "the example has another way to keep the cgroup")
        site.machine.write(f"/etc/systemd/system/{unit}", text.replace("--cgroups=no-conmon", LAB_OPTIONS))
        site.machine.checked("systemctl", "enable", unit)
    site.machine.checked("systemctl", "daemon-reload")
    site.machine.checked("systemctl", "start", unit)

    def running() -> str:
        return site.machine.checked("podman", "ps", "--quiet").strip()

    require(running(), "no container runs")
    site.stand("suspend")
    site.follows(f"stopped by a suspension, {unit}", unit, False, 20.0)
    require(not running(), "the container runs on")
    require(site.machine.run("systemctl", "start", unit).status == 1, "a container was started without a grant")
    site.stand("resume")
    site.follows(f"started by a resumption, {unit}", unit, True, 20.0)
    require(running(), "no container runs after the resumption")


def score(site: Site) -> None:
    """What `systemd-analyze security` thinks of the gate."""
    line = site.machine.checked("systemd-analyze", "security", "--no-pager", GATE).splitlines()[-1]
    exposure = float(line.partition("level for ")[2].split()[1])
    site.figures["systemd-analyze security of the gate"] = exposure
    require(exposure <= 2.0, f"the gate scores {exposure}")


Row = Callable[[Site], None]
ROWS: Sequence[Row] = (
    unactivated, granted, score, suspended, resumed, flooded, agent_away, agent_gone, own_faults, disabled, offline_reboot,
    container, other_entitlements, dates, revoked, readmitted,
)  # fmt: skip
"""In this order: each row finds what the row before has left."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add releases, roots and packages."""
    parser.add_argument("--release", choices=[*RELEASES], help="one release of Debian (default: both)")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "build", help="what is kept between runs")
    parser.add_argument("--packages", type=Path, help="the folder of built packages (default: build them)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every row on every release."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if missing := missing_packages():
        raise CannotRun(f"programs are missing. Run `apt-get install {' '.join(missing)}`")
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-gating-", dir="/var/tmp") as folder:
        for release in [options.release] if options.release else [*RELEASES]:
            scratch = Path(folder) / release
            scratch.mkdir()
            package = _package(options, release, scratch)
            root = debian_root(options.cache / "lab", release, extra=CONTAINERS)
            with contextlib.ExitStack() as stack:
                site = _site(scratch, root, package, stack, say)
                findings += [f"{release}: {finding}" for finding in _rows(site, release, say)]
            figures |= {f"{release}: {name}": value for name, value in site.figures.items()}
    return Outcome(figures, tuple(findings))


def _package(options: argparse.Namespace, release: Release, scratch: Path) -> Path:
    """The package of the agent for a release."""
    folder = options.packages
    if folder is None:
        folder = scratch / "packages"
        arguments = ["--only", "cascadia", "--target", RELEASES[release], "--to", str(folder)]
        if packages.main([*arguments, "--cache", str(options.cache / "packages")]) != 0:
            raise CannotRun("the package cannot be built; see above")
    number = RELEASES[release].removeprefix("debian")
    found = sorted(folder.glob(f"cascadia_*~deb{number}_*.deb"))
    if not found:
        raise CannotRun(f"{folder} has no package for Debian {number}")
    return Path(found[-1])


def _site(scratch: Path, root: Path, package: Path, stack: contextlib.ExitStack, say: Say) -> Site:
    """A machine that is not activated, with the vendor's units, and its cloud."""
    chip = SoftTpm(scratch / "chip", ca=scratch / "ca", bus=shared_bus())
    chip.manufacture()
    cloud = new_cloud(scratch).init()
    stack.enter_context(ended(cloud))
    cloud.up()
    machine = stack.enter_context(Container(scratch / "machine", root, "site"))
    machine.start()
    machine.install(package)
    machine.start_tpm(chip.directory)
    machine.write("/usr/bin/acme-vision", PROGRAM, 0o755)
    machine.checked("install", "-d", "-o", "nobody", "/var/lib/acme")
    for name in ("acme-core", "acme-report"):
        machine.checked("ln", "-s", "acme-vision", f"/usr/bin/{name}")
    machine.checked("ln", "-sf", "/bin/true", "/usr/bin/acme-report")
    for unit in (VISION, CORE, REPORT, TIMER):
        machine.write(f"/etc/systemd/system/{unit}", (EXAMPLES / unit).read_bytes())
    machine.write(f"/etc/systemd/system/{SECOND}", (EXAMPLES / VISION).read_bytes())
    machine.checked("systemctl", "enable", VISION, CORE, TIMER, SECOND)
    site = Site(machine, cloud, cloud.tenant(chip), say)
    say(f"{package.name} is installed")
    return site


def _rows(site: Site, release: str, say: Say) -> list[str]:
    findings = []
    for row in ROWS:
        begun = time.monotonic()
        try:
            row(site)
        except StepFailed as error:
            findings.append(f"{row.__name__}: {error}")
            say(f"FOUND {release} {row.__name__}: {error}")
            say(site.machine.run("journalctl", "-b", "--no-pager", "-n", "60").out)
            break
        say(f"{release} {row.__name__}: {time.monotonic() - begun:.0f} s")
    return findings
