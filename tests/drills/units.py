"""The agent's units on a real systemd: sandbox, socket, activation, revocation, restarts, watchdog, wrong settings.

The package is built and installed into a container (systemd-nspawn) of Debian 12 or 13. The cloud runs on this machine.
The agent has a software TPM in development mode, because a container has no TPM device; `make machine` has one. The
row of /dev/tpmrm0 opens another device under its name. This kernel's memory and CPU limits do not reach a container, so
they are not tried; AppArmor is not either. Needs root and a network.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from lab.cloud import Cloud
from lab.debian_root import Release, debian_root
from lab.nspawn import Container, missing_packages
from lab.processes import StepFailed, wait_until
from lab.tpm import SoftTpm
from node.exits import Exit
from node.system.journal import STATE_CHANGED
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support import sandbox_probe
from tools.packages import root

USUAL_TIME = "5 min"
MINUTES_MAX = 45.0

REPOSITORY = Path(__file__).parent.parent.parent
TARGETS: dict[Release, str] = {"bookworm": "debian12", "trixie": "debian13"}
UNITS = ("cascadia.service", "cascadia.socket", "cascadia-gates.socket", "cascadia-activated.path")
SERVICE = UNITS[0]
SECURITY_MAX = 1.7
CONNECTIONS = 1000
STORM_CPU_SECONDS_MAX = 1.0
"""Bound of the processor time of PID 1 for `CONNECTIONS` connections. One start of the agent alone takes about as long."""
USERS = (0, 65534, 1234)
STATE_SECONDS_MAX = 180.0
CLOUD_SECONDS_MAX = 180.0
SIGNS_OF_LIFE = 5
"""With a limit of 4 s the agent reports every 2 s, so these take longer than the limit."""
_FLOOD = """
import collections, json, socket, sys, time
said, held = collections.Counter(), []
for _ in range(int(sys.argv[1])):
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(0.2)
    try:
        link.connect("/run/cascadia/cascadia.sock")
        said["connected"] += 1
        held.append(link)
    except OSError as error:
        said[type(error).__name__] += 1
    time.sleep(0.002)
print(json.dumps(said))
"""
_ASK = """
import socket, sys
link = socket.socket(socket.AF_UNIX)
link.settimeout(60)
link.connect("/run/cascadia/cascadia.sock")
link.sendall(f"{sys.argv[1]} {sys.argv[2]} HTTP/1.1\\r\\nHost: agent\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())
print(b"".join(iter(lambda: link.recv(65536), b"")).decode())
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the release, and where roots and packages are."""
    parser.add_argument("--suite", choices=sorted(TARGETS), default="bookworm", help="(default: %(default)s)")
    parser.add_argument("--package", type=Path, help="a built package (default: it is built)")
    parser.add_argument(
        "--cache", type=Path, default=REPOSITORY / "build", help="keeps roots and parts (default: build)"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Build the package, boot the container, and run each step."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if missing := sorted({*missing_packages(), *root.missing_packages(root.NEEDED)}):
        raise CannotRun(f"programs are missing. Run `apt-get install {' '.join(missing)}`")
    folder = Path(tempfile.mkdtemp(prefix="units-", dir="/var/tmp"))
    try:
        with ExitStack() as ends:
            say("the package")
            package = options.package or _built(options, folder / "dist")
            say("the cloud, the chip and the container")
            chip = SoftTpm(folder / "chip")
            chip.manufacture()
            cloud = Cloud(folder, seconds=CLOUD_SECONDS_MAX)
            ends.callback(cloud.kill)
            cloud.init().up()
            base = debian_root(options.cache / "roots", options.suite)
            host = ends.enter_context(Container(folder / "host", base, options.suite))
            host.start()
            return _Life(host, cloud, chip, package, say).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _built(options: argparse.Namespace, to: Path) -> Path:
    command = [sys.executable, "-m", "tools.packages", "--only", "cascadia", "--target", TARGETS[options.suite]]
    command += ["--to", str(to), "--cache", str(options.cache / "packages"), "--throwaway-key"]
    if subprocess.run(command, check=False, cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode != 0:
        raise CannotRun("the package cannot be built. See the text above")
    return next(to.rglob("cascadia_*.deb"))


class Wrong(Exception):
    """A step saw something else than it must."""


def must(good: object, text: object) -> None:
    """Raise Wrong with the text unless `good`."""
    if not good:
        raise Wrong(str(text))


class _Life:
    """The life of one installation, step by step."""

    def __init__(self, host: Container, cloud: Cloud, chip: SoftTpm, package: Path, say: Say) -> None:
        self._host = host
        self._cloud = cloud
        self._chip = chip
        self._package = package
        self._say = say
        self._tenant = cloud.tenant(chip)
        self._figures: dict[str, Figure] = {
            "not tried in a container": "the kernel's TPM device, limits of memory and CPU, AppArmor"
        }
        self._findings: list[str] = []

    def run(self) -> Outcome:
        """Run every step. A step that fails is a finding, and the next one runs."""
        steps: tuple[Callable[[], None], ...] = (
            self.install, self.analysed, self.unactivated, self.sandbox, self.activated, self.callers, self.restarts,
            self.crashes, self.loses_a_socket, self.hangs, self.rebooted, self.revoked, self.readmitted, self.wrong_settings,
        )  # fmt: skip
        for step in steps:
            began, name, before = time.monotonic(), step.__name__.replace("_", " "), len(self._findings)
            try:
                step()
            except (Wrong, StepFailed) as error:
                self._findings.append(f"{name}: {error}")
            self._figures[f"{name}, seconds"] = round(time.monotonic() - began, 1)
            self._say(f"{name}: {'; '.join(self._findings[before:]) or 'right'}")
        return Outcome(self._figures, tuple(self._findings))

    # What the steps share

    def _unit(self, name: str = SERVICE) -> tuple[str, str]:
        shown = self._host.shown(name, "ActiveState", "Result")
        return shown["ActiveState"], shown["Result"]

    def _starts(self) -> int:
        """How often systemd has started the agent since the boot."""
        said = self._host.run("journalctl", "--boot", f"--unit={SERVICE}", "--output=cat", "--no-pager").out
        return len(re.findall(r"^Starting cascadia\.service", said, re.MULTILINE))

    def _ask(self, method: str, path: str, user: int = 65534) -> str:
        """The answer of the agent's socket to a user."""
        as_user = ("setpriv", f"--reuid={user}", "--clear-groups")
        return self._host.run(*as_user, "python3", "-c", _ASK, method, path).out

    def _wait_state(self, state: str) -> None:
        wait_until(
            f"the state {state}", lambda: f'"state":"{state}"' in self._ask("GET", "/v1/license"), STATE_SECONDS_MAX
        )

    def _wait_start(self, before: int) -> None:
        wait_until("another start", lambda: self._starts() > before, STATE_SECONDS_MAX)

    def _wait_unit(self, state: str) -> None:
        wait_until(f"the unit {state}", lambda: self._unit()[0] == state, STATE_SECONDS_MAX)

    def _storm(self, name: str) -> None:
        """Open many connections, and require that nothing starts and that PID 1 stays idle."""
        before, cpu = self._starts(), self._cpu_of_systemd()
        said = self._host.checked("python3", "-c", _FLOOD, str(CONNECTIONS)).strip()
        used = self._cpu_of_systemd() - cpu
        self._figures[f"{name}: {CONNECTIONS} connections"] = said
        self._figures[f"{name}: CPU of systemd, seconds"] = round(used, 2)
        must(self._starts() == before, f"connections started the agent {self._starts() - before} times")
        must(used < STORM_CPU_SECONDS_MAX, f"systemd used {used:.1f} s")

    def _cpu_of_systemd(self) -> float:
        fields = Path(f"/proc/{self._host.leader}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _activate(self, *options: str) -> None:
        code = self._cloud.code(self._tenant, *options)
        self._host.write("/root/activation.json", code.read_bytes(), 0o600)
        done = self._host.cascadia("activate", "/root/activation.json", seconds=STATE_SECONDS_MAX)
        must(done.status == 0, f"activate exited {done.status}: {done.error[-500:]}")

    # Steps

    def install(self) -> None:
        """The package installs, enables the units, and starts no agent."""
        self._host.checked("apt-get", "update", "--quiet")
        self._host.install(self._package)
        self._host.settle_units()
        self._host.start_tpm(self._chip.directory)
        self._host.write("/etc/cascadia/cascadia.toml", "heartbeat_seconds = 5\nsettle_seconds = 10\n", 0o640)
        self._host.checked("chgrp", "cascadia", "/etc/cascadia/cascadia.toml")

    def analysed(self) -> None:
        """systemd has nothing to say about the units, and the exposure of the service is bounded."""
        names = [f"/usr/lib/systemd/system/{unit}" for unit in UNITS]
        done = self._host.run("systemd-analyze", "verify", *names)
        must(done.status == 0 and "cascadia" not in done.error, done.error)
        said = self._host.checked("systemd-analyze", "security", "--offline=true", "--no-pager", names[0])
        exposure = float(said.rsplit("exposure level for ", 1)[1].split(": ")[1].split()[0])
        self._figures["exposure"] = exposure
        must(exposure <= SECURITY_MAX, f"the exposure is {exposure}")

    def unactivated(self) -> None:
        """A start is skipped, connections start nothing, and the socket is not there."""
        self._host.checked("systemctl", "start", SERVICE)
        must(self._unit() == ("inactive", "success"), f"not skipped: {self._unit()}")
        self._storm("unactivated")
        must(self._unit("cascadia.socket") == ("inactive", "success"), f"the socket is {self._unit('cascadia.socket')}")

    def sandbox(self) -> None:
        """From inside the sandbox: what must be stopped is stopped, what must work works, users are their own."""
        sandbox_probe.prepare(self._host)
        limits = (
            frozenset()
            if "+BPF_FRAMEWORK" in self._host.checked("systemctl", "--version")
            else sandbox_probe.WITHOUT_BPF
        )
        with socket.create_server(("127.0.0.1", 0)) as listening:
            found = sandbox_probe.probe(self._host, listening.getsockname()[1])
        self._figures |= sandbox_probe.judge(found, self._findings, limits)
        seen = sandbox_probe.users_seen(self._host, USERS)
        must(seen == list(USERS), f"the users of three connections are {seen}")
        self._host.checked(
            "sh",
            "-c",
            "systemctl stop lab-probe.socket lab-probe.service; rm -rf /var/lib/cascadia/* /run/cascadia/lab*; rm /dev/tpmrm0",
        )

    def activated(self) -> None:
        """`cascadia activate` alone: the agent and its socket start, and the unit is within its bounds."""
        self._activate()
        self._wait_unit("active")
        self._wait_state("active")
        pid = self._host.shown(SERVICE, "MainPID")["MainPID"]
        status = self._host.checked("cat", f"/proc/{pid}/status")
        self._figures["memory of the agent, MiB"] = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024
        self._figures["threads of the agent"] = int(re.findall(r"Threads:\s+(\d+)", status)[0])
        records = self._host.journal(SERVICE)
        states = [each for each in records if each.get("MESSAGE_ID") == STATE_CHANGED]
        must(
            states and states[-1]["CASCADIA_STATE"] == "active" and states[-1]["CASCADIA_GATE"] == "open",
            f"the journal has no record of the state: {states}",
        )
        said = " ".join(str(each["MESSAGE"]) for each in records)
        for text in ("cannot forbid core dumps", "Permission denied", "Operation not permitted"):
            must(text not in said, f"the journal says {text!r}: {said[-1500:]}")

    def callers(self) -> None:
        """Every user may read. Commands are for root and the agent's user: the agent knows who asks."""
        agent = int(self._host.checked("id", "--user", "cascadia"))
        codes = {user: self._ask("POST", "/v1/renew", user).split(" ")[1:2] for user in (65534, 1234, 0, agent)}
        must(codes == {65534: ["403"], 1234: ["403"], 0: ["200"], agent: ["200"]}, f"the answers are {codes}")

    def restarts(self) -> None:
        """A client that connects during a restart is served by the new agent. A stop is final."""
        self._host.checked("systemctl", "restart", "--no-block", SERVICE)
        wait_until("the restart", lambda: self._unit()[0] != "active", STATE_SECONDS_MAX)
        must('"state":"active"' in self._ask("GET", "/v1/license"), "a client was not served over the restart")
        self._host.checked("systemctl", "stop", SERVICE)
        self._storm("stopped")
        self._host.checked("systemctl", "start", SERVICE)
        self._wait_state("active")

    def crashes(self) -> None:
        """After SIGKILL the agent and its socket come back by themselves."""
        before = self._starts()
        self._host.checked("systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE)
        began = time.monotonic()
        self._wait_start(before)
        self._figures["pause after a crash, seconds"] = round(time.monotonic() - began, 1)
        self._wait_state("active")

    def loses_a_socket(self) -> None:
        """After the file of a socket was removed, the agent ends, and systemd makes both sockets again."""
        for name in ("cascadia.sock", "gates.sock"):
            before = self._starts()
            self._host.checked("rm", f"/run/cascadia/{name}")
            self._wait_start(before)
            self._wait_state("active")
            modes = self._host.checked("sh", "-c", "cd /run/cascadia; stat --format='%a %U' cascadia.sock gates.sock")
            must(modes == "666 root\n600 cascadia\n", f"the sockets have modes and owners {modes!r}")

    def hangs(self) -> None:
        """The watchdog ends an agent that is stopped, and another one starts."""
        self._host.write(
            "/run/systemd/system/cascadia.service.d/quick.conf", "[Service]\nWatchdogSec=4\nRestartSec=1\n"
        )
        self._host.checked("systemctl", "daemon-reload")
        self._host.checked("systemctl", "restart", SERVICE)
        before = self._host.shown(SERVICE, "MainPID")["MainPID"]
        signs: set[str] = set()

        def signs_of_life() -> bool:
            signs.add(self._host.shown(SERVICE, "WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"])
            return len(signs) > SIGNS_OF_LIFE

        wait_until("signs of life", signs_of_life, STATE_SECONDS_MAX)
        must(self._host.shown(SERVICE, "MainPID")["MainPID"] == before, "the watchdog ended a healthy agent")
        self._host.checked("kill", "-STOP", before)
        wait_until(
            "the watchdog",
            lambda: self._host.shown(SERVICE, "MainPID")["MainPID"] not in ("0", before),
            STATE_SECONDS_MAX,
        )
        self._host.checked("sh", "-c", "rm -r /run/systemd/system/cascadia.service.d; systemctl daemon-reload")
        self._host.checked("systemctl", "restart", SERVICE)
        self._wait_state("active")

    def rebooted(self) -> None:
        """After a boot the agent runs by itself."""
        self._host.reboot()
        self._wait_state("active")

    def revoked(self) -> None:
        """A revoked machine's agent does not start again, and connections cost nothing, also after a boot."""
        node = json.loads(self._ask("GET", "/v1/license").partition("\r\n\r\n")[2])["node"]
        self._cloud.run("node", "revoke", node)
        self._wait_state("revoked")
        self._host.run("systemctl", "restart", SERVICE)
        self._wait_unit("failed")
        status = self._host.shown(SERVICE, "ExecMainStatus")["ExecMainStatus"]
        must(status == str(int(Exit.REVOKED)), f"the exit status is {status}")
        self._storm("revoked")
        self._host.reboot()
        must(self._unit() == ("failed", "exit-code"), f"after a boot: {self._unit()}")
        self._storm("revoked, after a boot")
        self._node = node

    def readmitted(self) -> None:
        """`cascadia activate` with a readmission code starts everything again, without `reset-failed`."""
        self._activate("--readmit", self._node)
        self._wait_state("active")

    def wrong_settings(self) -> None:
        """A wrong setting stops the start with its name, and never loops. Corrected, it starts by one command."""
        name = "/etc/cascadia/cascadia.toml"
        self._host.checked("sh", "-c", f"echo 'settel_seconds = 1' >>{name}")
        self._host.run("systemctl", "restart", SERVICE)
        must(self._unit() == ("failed", "exit-code"), f"the unit is {self._unit()}")
        must(self._host.shown(SERVICE, "NRestarts")["NRestarts"] == "0", "it was restarted")
        said = " ".join(str(each["MESSAGE"]) for each in self._host.journal(SERVICE, "--lines=20"))
        must("settel_seconds" in said and "settle_seconds" in said, f"the journal does not name the setting: {said}")
        self._storm("wrong settings")
        self._host.checked("sed", "-i", "/settel/d", name)
        self._host.checked("systemctl", "start", SERVICE)
        self._wait_state("active")
