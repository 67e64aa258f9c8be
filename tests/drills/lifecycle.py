"""The deb of the agent over its life: install, upgrade, downgrade, remove, reinstall, purge, and dpkg killed at each step.

In a container with a real systemd and a software TPM, against a cloud on this machine. Other versions of the package are
made of the given one, with another version in its control file. dpkg is killed at random times within a whole run; then
`dpkg --configure -a` finishes it, or the same command does.
"""

import argparse
import os
import random
import re
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from lab.cloud import Cloud
from lab.debian_root import Release, debian_root
from lab.guest import Done
from lab.nspawn import TPM_TCTI, Container, missing_packages
from lab.processes import StepFailed, ended, wait_until
from lab.tpm import SoftTpm
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.package_versions import REINSTALL, with_version

USUAL_TIME = "6 min"
MINUTES_MAX = 60.0
REPOSITORY = Path(__file__).parent.parent.parent
STATE = "/var/lib/cascadia"
PURGE_SECONDS_MAX = 150.0
CLOUD_SECONDS_MAX = 180.0
"""How long a command of the cloud may take on a machine that has other work."""
UPGRADES = 12
"""How often a run of dpkg is killed."""
_MODE = ("env", "CASCADIA_MODE=development", f"CASCADIA_TPM={TPM_TCTI}", "DEBIAN_FRONTEND=noninteractive")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the package, the release and the number of kills."""
    parser.add_argument(
        "--package", type=Path, help="the deb (default: that of the release in dist/, of `make packages`)"
    )
    parser.add_argument("--suite", choices=("bookworm", "trixie"), default="bookworm", help="the release of Debian")
    parser.add_argument("--roots", type=Path, default=REPOSITORY / "build/roots", help="where roots are kept")
    parser.add_argument("--kills", type=int, default=UPGRADES, help="how often dpkg is killed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times; 0 takes one from the clock")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run every step. A step that fails is a finding, and ends the drill."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if missing := missing_packages():
        raise CannotRun(f"this machine lacks {', '.join(missing)}. Install them")
    suffix = "deb12" if options.suite == "bookworm" else "deb13"
    found = sorted((REPOSITORY / "dist").glob(f"cascadia_*~{suffix}_*.deb"))
    package = options.package or (found[-1] if found else None)
    if package is None:
        raise CannotRun("there is no package of the agent. Run `make packages`, or name one with --package")
    seed = options.seed or int(time.time())
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="cascade-lifecycle-", dir="/var/tmp") as name, ExitStack() as stack:
        life = Life(Path(name), package, say, random.Random(seed))
        try:
            life.begin(stack, options.suite, options.roots)
            life.live(options.kills)
        except (AssertionError, StepFailed) as error:
            return Outcome(life.figures, (f"{life.step}: {error}",))
    return Outcome(life.figures)


class Life:
    """One machine, its packages and its cloud."""

    def __init__(self, directory: Path, package: Path, say: Say, choose: random.Random) -> None:
        self._directory = directory
        self._package = package
        self._say = say
        self._choose = choose
        self.figures: dict[str, Figure] = {"package": package.name}
        self.step = "begin"

    def begin(self, stack: ExitStack, release: Release, roots: Path) -> None:
        """Start the cloud and the machine. The machine reaches the cloud over the network of this machine."""
        self._next("a cloud, and a machine with a TPM")
        self.chip = SoftTpm(self._directory / "chip", ca=self._directory / "ca")
        with self.chip:
            self.cloud = Cloud(self._directory, seconds=CLOUD_SECONDS_MAX)
            stack.enter_context(ended(self.cloud))
            self.cloud.init()
            self.cloud.up()
            self.tenant = self.cloud.tenant(self.chip)
        self.machine = stack.enter_context(Container(self._directory / "machine", debian_root(roots, release)))
        self.machine.start()
        self.machine.start_tpm(self.chip.directory)
        self.debs = {name: self._version(name) for name in ("1.0", "2.0")}
        self.debs["1.0 of a later state"] = self._version("1.0", older=True)

    def _next(self, step: str) -> None:
        self.step = step
        self._say(step)

    def _version(self, version: str, *, older: bool = False) -> str:
        """Make the package with another version, and put it on the machine. `older` reads no state. Returns its path."""
        made = with_version(self._package, version, self._directory, reads_no_state=older)
        self.machine.write(f"/var/cache/lab/{made.name}", made.read_bytes())
        return f"/var/cache/lab/{made.name}"

    # What a person does

    def dpkg(self, *argv: str, expect: int = 0) -> Done:
        """Run dpkg. Raises StepFailed for another exit status."""
        done = self.machine.run(*_MODE, "dpkg", *argv, seconds=PURGE_SECONDS_MAX)
        if done.status != expect:
            raise StepFailed(f"`dpkg {' '.join(argv)}` exited {done.status}: {(done.out + done.error)[-1500:]}")
        return done

    def activate(self) -> str:
        """Activate with a new code. Returns the node's id. The agent starts by itself."""
        self.machine.write("/root/activation.json", self.cloud.code(self.tenant).read_bytes(), 0o600)
        done = self.machine.cascadia("activate", "/root/activation.json")
        assert done.status == 0, done.out + done.error
        return self.active()

    def active(self) -> str:
        """Wait until the agent of the unit runs with an open gate. Returns the node's id."""

        def found() -> str:
            done = self.machine.run("cascadia", "license", "show", "--json")
            running = self.machine.shown("cascadia.service", "ActiveState")["ActiveState"] == "active"
            return str(re.findall(r'"node": "(node_\w+)"', done.out)[0]) if done.status == 0 and running else ""

        wait_until("the agent with an open gate", found, CLOUD_SECONDS_MAX)
        return found()

    def pid(self) -> str:
        return self.machine.shown("cascadia.service", "MainPID")["MainPID"]

    def seats(self) -> int:
        """The seats that are taken in all codes of the cloud."""
        return int(self.cloud.rows("fabric", "SELECT coalesce(sum(seats_taken), 0) FROM code")[0][0])

    def indices(self) -> list[str]:
        """The NV indices of floor counters in the TPM."""
        listed = self.machine.checked("tpm2_getcap", f"--tcti={TPM_TCTI}", "handles-nv-index")
        return re.findall(r"0x1[aA]\w{5}", listed)

    def exists(self, path: str) -> bool:
        return self.machine.run("test", "-e", path).status == 0

    # The life

    def live(self, kills: int) -> None:
        """Every step, in order. Raises AssertionError, StepFailed."""
        self._next("install: nothing starts, nothing fails")
        self.dpkg("-i", self.debs["1.0"])
        state = self.machine.shown("cascadia.service", "ActiveState", "Result", "ConditionResult")
        assert (state["ActiveState"], state["Result"]) == ("inactive", "success"), state
        failed = self.machine.run("systemctl", "list-units", "--state=failed", "--plain").out
        assert "cascadia" not in failed, failed
        self._next("activate: the agent starts without systemctl")
        node = self.activate()
        self._upgrade(node)
        self._remove(node)
        self._next(f"dpkg killed {kills} times")
        self._killed(kills, node)
        self._purge_reachable(node)
        self._purge_unreachable()

    def _upgrade(self, node: str) -> None:
        self._next("upgrade: the agent is another process, and the same node")
        before = self.pid()
        socket = self.machine.shown("cascadia.socket", "ActiveEnterTimestampMonotonic")
        self.dpkg("-i", self.debs["2.0"])
        _same("the node", self.active(), node)
        assert self.pid() != before, "the old program runs on"
        _same("the socket", self.machine.shown("cascadia.socket", "ActiveEnterTimestampMonotonic"), socket)
        self._next("downgrade to a version that reads no such state: refused, and nothing changes")
        running = self.pid()
        refused = self.dpkg("-i", self.debs["1.0 of a later state"], expect=1)
        assert "reads version 0. Nothing was changed." in refused.out + refused.error, refused.out + refused.error
        _same("the agent", (self.active(), self.pid()), (node, running))
        status = self.machine.checked("dpkg-query", "-W", "-f", "${Version} ${Status}", "cascadia")
        _same("the package", status, "2.0 install ok installed")
        self._next("a version that the agent's user made up: the package says so, and is installed")
        self.machine.checked("sh", "-c", f"cp -p {STATE}/version /root/version; echo 7 >{STATE}/version")
        told = self.dpkg("-i", self.debs["2.0"])
        assert "says version 7, and no package here has written that" in told.error, told.error
        self.machine.checked("sh", "-c", f"cp -p /root/version {STATE}/version")
        self.machine.checked("systemctl", "start", "cascadia.service")
        _same("the node", self.active(), node)
        self._next("downgrade to a version that reads the state")
        self.dpkg("-i", self.debs["1.0"])
        _same("the node", self.active(), node)
        self._next("an agent that was stopped stays stopped over an upgrade")
        self.machine.checked("systemctl", "stop", "cascadia.service")
        self.dpkg("-i", self.debs["2.0"])
        _same("the agent", self.machine.shown("cascadia.service", "ActiveState"), {"ActiveState": "inactive"})
        self.machine.checked("systemctl", "start", "cascadia.service")
        _same("the node", self.active(), node)

    def _remove(self, node: str) -> None:
        self._next("remove: the agent is gone, the state and the seat stay")
        self.dpkg("--remove", "cascadia")
        for path, there in (
            ("/usr/bin/cascadia", False),
            ("/run/cascadia/cascadia.sock", False),
            (f"{STATE}/identity", True),
        ):
            _same(path, self.exists(path), there)
        _same("seats and counters", (self.seats(), len(self.indices())), (1, 1))
        self._next("reinstall over a state that root owns: the same node runs again")
        self.machine.checked("chown", "-R", "root:root", STATE)
        self.dpkg("-i", self.debs["2.0"])
        _same("the node", self.active(), node)
        _same("the kept program", self.exists("/usr/lib/cascadia-removed"), False)

    def _killed(self, kills: int, node: str) -> None:
        """Kill dpkg within an upgrade, with every process that it has started, and finish the upgrade."""
        whole = 0.0
        for number in range(kills):
            name = ("1.0", "2.0")[number % 2]
            if number == 0:
                begun = time.monotonic()
                self.dpkg("-i", self.debs[name])
                whole = time.monotonic() - begun
                continue
            after = self._choose.uniform(0.0, whole)
            command = ("timeout", "--signal=KILL", f"{after:.3f}", "dpkg", "-i", self.debs[name])
            self.machine.run(*_MODE, "setsid", "--wait", *command)
            self.machine.run("sh", "-c", "kill -KILL $(pgrep -x dpkg) $(pgrep -f /var/lib/dpkg) 2>/dev/null")
            done = self.machine.run(*_MODE, "dpkg", "--configure", "-a", seconds=PURGE_SECONDS_MAX)
            assert done.status == 0 or REINSTALL in done.error, done.out + done.error
            status = self.machine.run("dpkg-query", "-W", "-f", "${Status}", "cascadia").out
            if status != "install ok installed":
                # A package that was unpacked in part is unpacked again.
                self.dpkg("-i", self.debs[name])
            assert self.active() == node, f"killed after {after:.3f} s"
        _same("seats and counters", (self.seats(), len(self.indices())), (1, 1))
        self.figures["kills of dpkg"] = max(0, kills - 1)
        self.figures["upgrade, seconds"] = round(whole, 1)

    def _purge_reachable(self, node: str) -> None:
        self._next("purge with the cloud: the seat is free, and nothing is left")
        begun = time.monotonic()
        said = self.dpkg("--purge", "cascadia")
        self.figures["purge, seconds"] = round(time.monotonic() - begun, 1)
        assert re.search(r"seat: +free", said.out), said.out
        self._check_gone()
        standing = self.cloud.rows("fabric", "SELECT standing FROM node WHERE id = ?", node)
        _same("the node", (standing, self.seats()), ([("released",)], 0))

    def _purge_unreachable(self) -> None:
        self._next("purge without the cloud: it ends, and says that the seat is taken")
        self.dpkg("-i", self.debs["1.0"])
        node = self.activate()
        self.dpkg("--remove", "cascadia")
        self.cloud.down()
        begun = time.monotonic()
        said = self.dpkg("--purge", "cascadia")
        self.figures["purge without the cloud, seconds"] = round(time.monotonic() - begun, 1)
        assert f"cascade node release {node}" in said.out, said.out + said.error
        self._check_gone()
        _same("the seats", self.seats(), 1)

    def _check_gone(self) -> None:
        for path in (STATE, "/etc/cascadia", "/usr/lib/cascadia", "/usr/lib/cascadia-removed", "/run/cascadia"):
            assert not self.exists(path), f"{path} is left"
        assert self.indices() == [], "a counter is left in the TPM"
        _same("the exit of dpkg-query", self.machine.run("dpkg-query", "-W", "cascadia").status, 1)
        left = self.machine.checked(
            "sh", "-c", "find /etc/systemd /var/lib/systemd/deb-systemd-helper* -name 'cascadia*'"
        )
        left = "\n".join(line for line in left.splitlines() if "cascadia.service.d" not in line)
        assert left == "", f"left: {left}"


def _same(what: str, found: object, expected: object) -> None:
    """Raise AssertionError if what was found is not what was expected."""
    assert found == expected, f"{what}: {found!r}, not {expected!r}"
