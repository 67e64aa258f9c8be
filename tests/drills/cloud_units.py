"""The package of the cloud on a real systemd: units, sandbox, start, restart, upgrade, timers, removal.

The package is built twice, the second time with a higher version, and installed into a container (systemd-nspawn). A
machine of this host, with a software TPM, activates against the cloud and asks it every two seconds throughout. Needs
root and a network.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from cloud.backup.age import make_identity
from lab.debian_root import debian_root
from lab.machine import Machine
from lab.nspawn import Container, missing_packages
from lab.processes import StepFailed, free_ports, wait_until
from lab.tpm import SoftTpm
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tools.packages import root

USUAL_TIME = "5 min"
MINUTES_MAX = 30.0

REPOSITORY = Path(__file__).parent.parent.parent
PACKAGE = "cascade-cloud"
VERSIONS = ("0.1.0", "0.1.1")
TARGETS = {"bookworm": "debian12", "trixie": "debian13"}
SERVICES = ("cascade", "cascade-breakwater", "cascade-fabric")
TIMED = ("cascade-backup", "cascade-pki-check")
SECURITY_MAX = 2.0
HOME = "/var/lib/cascade"
INSTALLATION = f"{HOME}/installation"
POLL_SECONDS = 0.02
ANSWER_SECONDS_MAX = 60.0
LIBC = "import ctypes; c = ctypes.CDLL(None, use_errno=True)\ndef check(r):\n    if r == -1: raise OSError(ctypes.get_errno())\n"
STOPPED = {
    "write to /etc": "open('/etc/probe', 'w')",
    "write to /usr": "open('/usr/lib/probe', 'w')",
    "write beside the state": "open('/var/lib/probe', 'w')",
    "read /home": "os.listdir('/home/someone')",
    "read /root": "os.listdir('/root')",
    "read root's files": "open('/etc/shadow')",
    "see other processes": "open('/proc/1/status')",
    "load a module": LIBC + "check(c.syscall(175, 0, 0, b''))",
    "trace a process": LIBC + "check(c.ptrace(0, 0, 0, 0))",
    "make a user namespace": LIBC + "check(c.unshare(0x10000000))",
    "mount": LIBC + "check(c.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "open a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "open a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "open a packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)",
    "become root": "os.setuid(0)",
    "change the root directory": "os.chroot('/')",
    "change a kernel tunable": "open('/proc/sys/kernel/core_pattern', 'w')",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "set the host name": "socket.sethostname('probe')",
    "open a device": "open('/dev/mem')",
    "make a device": "os.mknod('/tmp/probe', 0o60600, os.makedev(7, 0))",
    "make a program with setuid": f"f = '{HOME}/probe'; open(f, 'w'); os.chmod(f, 0o4755)",
    "have writable code": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "get real-time priority": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "signal PID 1": "os.kill(1, 0)",
}
"""What the services must not be able to do: a line for the report, and Python that does it."""
WORKS = {
    "write the state": f"open('{HOME}/probe', 'w').write('x')",
    "listen on TCP": "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())",
    "listen on a unix socket": "socket.socket(socket.AF_UNIX).bind('/tmp/probe.sock')",
    "resolve a name": "socket.getaddrinfo('localhost', 1)",
    "start a program": "subprocess.run(['/bin/true'], check=True)",
    "make keys": "open('/dev/urandom', 'rb').read(1)",
    "use SQLite": f"d = sqlite3.connect('{HOME}/probe.sqlite'); d.execute('PRAGMA journal_mode=wal'); d.execute('CREATE TABLE IF NOT EXISTS t (x)')",
}
PROBE = """
import json, mmap, os, socket, sqlite3, subprocess, sys, time
def tried(text):
    child = os.fork()
    if not child:
        try: exec(text, globals())
        except BaseException: os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(json.dumps({name: tried(text) for name, text in json.load(open("/usr/lib/probe.json")).items()}))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the release, and where roots and built packages are kept."""
    parser.add_argument(
        "--suite", choices=sorted(TARGETS), default="bookworm", help="the release (default: %(default)s)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=REPOSITORY / "build",
        help="keeps roots and the parts of packages (default: build)",
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Build both packages, then go through the life of an installation."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if missing := sorted({*missing_packages(), *root.missing_packages(root.NEEDED)}):
        raise CannotRun(f"programs are missing. Run `apt-get install {' '.join(missing)}`")
    with (
        tempfile.TemporaryDirectory(prefix="cascade-units-", dir="/var/tmp", ignore_cleanup_errors=True) as folder,
        ExitStack() as ends,
    ):
        say("packages")
        packages = [_built(options, version, Path(folder) / version) for version in VERSIONS]
        say("container")
        home = debian_root(options.cache / "roots", options.suite)
        chip = ends.enter_context(SoftTpm(Path(folder) / "chip"))
        host = ends.enter_context(Container(Path(folder) / "host", home, "cloud"))
        host.start()
        return Life(host, Path(folder), chip, packages, say).run()


def _built(options: argparse.Namespace, version: str, to: Path) -> Path:
    command = [sys.executable, "-m", "tools.packages", "--only", PACKAGE, "--target", TARGETS[options.suite]]
    command += ["--version", version, "--to", str(to), "--cache", str(options.cache / "packages")]
    if subprocess.run(command, check=False, cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode != 0:
        raise CannotRun("the packages cannot be built. See the text above")
    return next(to.rglob(f"{PACKAGE}_{version}-*.deb"))


class Poller(threading.Thread):
    """Fetches a URL all the time, and measures the longest time without an answer."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._over = threading.Event()
        self.longest = 0.0

    def run(self) -> None:
        last = time.monotonic()
        while not self._over.wait(POLL_SECONDS):
            try:
                with urllib.request.urlopen(self._url, timeout=1) as answer:  # noqa: S310  (a URL of ours)
                    answer.read()
            except OSError:
                continue
            finally:
                self.longest = max(self.longest, time.monotonic() - last)
            last = time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


class Life:
    """The life of one installation in a container, step by step."""

    def __init__(self, host: Container, folder: Path, chip: SoftTpm, packages: list[Path], say: Say) -> None:
        self.host = host
        self.folder = folder
        self.port = free_ports(6)
        self.machine = Machine(folder, chip)
        self.chip = chip
        self.old, self.new = packages
        self.say = say
        self.figures: dict[str, Figure] = {}
        self.findings: list[str] = []

    def run(self) -> Outcome:
        """Every step. A step that cannot go on is a finding, and ends the drill."""
        steps = (
            self.install, self.units, self.sandbox, self.init, self.activate, self.restart, self.unpacked, self.upgrade,
            self.backups, self.checks, self.credentials, self.wrong_settings, self.hanging, self.two_forms, self.removal,
        )  # fmt: skip
        for step in steps:
            self.say(step.__name__)
            begun = time.monotonic()
            try:
                step()
            except StepFailed as error:
                self.findings.append(f"{step.__name__}: {error}")
                break
            self.figures[f"{step.__name__}, seconds"] = round(time.monotonic() - begun, 1)
        self.machine.kill()
        return Outcome(self.figures, tuple(self.findings))

    def expect(self, what: str, good: bool, found: object = "") -> None:
        """Add a finding unless `good`."""
        if not good:
            self.findings.append(f"{what}: {found}")

    def shell(self, text: str) -> str:
        """The output of a shell command that must succeed. Raises StepFailed."""
        return self.host.checked("/bin/sh", "-ec", text)

    def document(self, *argv: str) -> Any:
        """The document of a `cascade` command of root. Raises StepFailed."""
        return json.loads(self.host.checked("cascade", *argv, "--json"))

    def state(self, unit: str) -> str:
        return self.host.shown(unit, "ActiveState")["ActiveState"]

    def poller(self) -> Poller:
        return Poller(f"http://127.0.0.1:{self.port + 2}/tuf/metadata/1.root.json")

    # Steps

    def install(self) -> None:
        """Nothing starts: every unit is skipped."""
        self.shell("apt-get update --quiet")
        said = self.host.install(self.old)
        self.expect("the package says the next step", "sudo cascade init" in said, said[-300:])
        for unit in (*SERVICES, *TIMED):
            self.host.run("systemctl", "start", unit)
            shown = self.host.shown(unit, "ActiveState", "ConditionResult", "Result")
            good = shown == {"ActiveState": "inactive", "ConditionResult": "no", "Result": "success"}
            self.expect(f"{unit} is skipped before init", good, shown)
        for timer in TIMED:
            self.expect(f"{timer}.timer runs", self.state(f"{timer}.timer") == "active")
        self.figures["installed size, MB"] = int(self.shell("du -sm /usr/lib/cascade | cut -f1"))

    def units(self) -> None:
        """systemd has nothing to say about the units, and their exposure is bounded."""
        names = [f"/usr/lib/systemd/system/{unit}.service" for unit in (*SERVICES, *TIMED)]
        done = self.host.run("systemd-analyze", "verify", *names, *(f"{n[:-8]}.timer" for n in names[-len(TIMED) :]))
        self.expect("systemd-analyze verify", done.status == 0 and "cascade" not in done.error, done.error)
        for name in names:
            text = self.host.checked("systemd-analyze", "security", "--offline=true", "--no-pager", name)
            exposure = float(text.rsplit("exposure level for ", 1)[1].split(": ")[1].split()[0])
            self.figures[f"exposure of {Path(name).stem}"] = exposure
            self.expect(f"exposure of {name}", exposure <= SECURITY_MAX, exposure)

    def sandbox(self) -> None:
        """From inside the sandbox of the service: what must be stopped is stopped, what must work works."""
        unit = self.shell("cat /usr/lib/systemd/system/cascade.service")
        lines = [
            line for line in unit.splitlines() if not line.startswith(("Condition", "WatchdogSec", "Type=", "Restart"))
        ]
        text = "\n".join(lines).replace("/usr/bin/cascade up", "/usr/bin/python3 /usr/lib/probe.py")
        self.host.write("/etc/systemd/system/probe.service", text.replace("[Service]", "[Service]\nType=oneshot"))
        self.host.write("/usr/lib/probe.py", PROBE)
        self.host.write("/usr/lib/probe.json", json.dumps({**STOPPED, **WORKS}))
        self.shell("mkdir -p /home/someone; systemctl daemon-reload; systemctl start probe")
        worked = json.loads(self.host.journal("probe.service", "--identifier=python3")[-1]["MESSAGE"])
        for name in STOPPED:
            self.expect(f"not stopped: {name}", worked[name] is False)
        for name in WORKS:
            self.expect(f"does not work: {name}", worked[name] is True)
        self.figures["stopped from inside"] = len(STOPPED)
        self.shell(f"rm -f {HOME}/probe*")

    def init(self) -> None:
        """root makes the installation, which belongs to the user of the services; systemd starts it."""
        self.shell(f"cd /root; umask 022; cascade init --port-base {self.port}")
        self.expect(
            "files of root", not self.shell(f"find {HOME} ! -user cascade"), self.shell(f"find {HOME} ! -user cascade")
        )
        begun = time.monotonic()
        self.shell("systemctl enable --now cascade")
        self.figures["start to READY, seconds"] = round(time.monotonic() - begun, 1)
        text = self.host.shown("cascade", "StatusText")["StatusText"]
        self.expect("the status line", text == "breakwater ready; fabric ready", text)
        checks = [each for each in self.document("config", "check", "--running") if each["state"] == "failed"]
        self.expect("config check", not checks, checks)

    def activate(self) -> None:
        """A machine activates. The operator is root without any variable."""
        tenant = self.document("tenant", "create", "acme")["id"]
        self.host.write(
            "/root/roots.pem", self.chip.ek_roots_pem.read_text() + self.chip.ek_intermediates_pem.read_text()
        )
        self.document("hardware", "add-root", tenant, "/root/roots.pem")
        self.document("code", "create", tenant, "--entitlement", "vision", "--out", "/root/activation.json")
        activation = self.folder / "activation.json"
        activation.write_bytes(self.host.path("/root/activation.json").read_bytes())
        self.machine.run("activate", str(activation))
        self.machine.up()
        self.machine.wait_state("active")
        self.node = self.machine.ask("/v1/license")["node"]
        self.expect("files of root", not self.shell(f"find {HOME} ! -user cascade"))

    def restart(self) -> None:
        with self.poller() as poller:
            self.shell("systemctl restart cascade")
        self.figures["gap of a restart, seconds"] = round(poller.longest, 2)
        self.serves("after a restart")

    def serves(self, when: str) -> None:
        """Operators and the machine reach the cloud, and the machine's program is granted."""
        self.expect(f"{when}, granted", self.machine.granted())
        self.expect(f"{when}, active", self.document("node", "show", self.node)["node"]["standing"] == "active")
        before = self.machine.ask("/v1/status")["last_contact_at"]
        wait_until(
            f"{when}, a contact of the machine", lambda: self._contact() not in (None, before), ANSWER_SECONDS_MAX
        )

    def _contact(self) -> str | None:
        document = self.machine.ask("/v1/status")
        return None if document is None else str(document["last_contact_at"])

    def unpacked(self) -> None:
        """An upgrade that was killed after unpacking is finished by `dpkg --configure -a`."""
        self.host.write("/root/new.deb", self.new.read_bytes())
        self.shell("dpkg --unpack /root/new.deb")
        self.expect("stopped while unpacked", self.state("cascade") == "inactive", self.state("cascade"))
        self.shell("dpkg --configure -a")
        self.expect("runs after configure", self.state("cascade") == "active", self.state("cascade"))
        self.serves("after a resumed upgrade")
        self.host.install(self.old)

    def upgrade(self) -> None:
        """From the old to the new package, with a client that polls and a machine that goes on."""
        refused = 0
        with self.poller() as poller:
            upgrading = threading.Thread(target=self.host.install, args=(self.new,))
            upgrading.start()
            while upgrading.is_alive():
                refused += not self.machine.granted()
                upgrading.join(POLL_SECONDS)
        self.figures["gap of an upgrade, seconds"] = round(poller.longest, 2)
        self.expect("a program was refused during the upgrade", refused == 0, refused)
        self.expect("runs after an upgrade", self.state("cascade") == "active", self.state("cascade"))
        version = self.shell(f"dpkg-query --show --showformat='${{Version}}' {PACKAGE}")
        self.expect("the version", version.startswith(VERSIONS[1]), version)
        self.serves("after an upgrade")

    def backups(self) -> None:
        """The timer's backup is skipped until it has a recipient. Then it makes a backup that its identity opens."""
        self.host.run("systemctl", "start", "cascade-backup")
        self.expect("skipped", self.host.shown("cascade-backup", "Result")["Result"] == "exec-condition")
        said = [str(each["MESSAGE"]) for each in self.host.journal("cascade-backup")]
        self.expect("says why", any("CASCADE_BACKUP_RECIPIENT" in each for each in said), said)
        identity, recipient = make_identity()
        self.shell(
            f"sed -i 's/^CASCADE_BACKUP_RECIPIENT=.*/CASCADE_BACKUP_RECIPIENT=\"{recipient}\"/' /etc/cascade/backup.conf"
        )
        self.shell("systemctl start cascade-backup")
        (name,) = self.shell(f"ls {HOME}/backups").split()
        self.host.write("/root/key", identity, 0o600)
        checked = self.document("backup", "check", f"{HOME}/backups/{name}", "--identity", "/root/key")
        self.figures["rows in the backup"] = checked["rows"]

    def checks(self) -> None:
        self.shell("systemctl start cascade-pki-check")
        said = " ".join(str(each["MESSAGE"]) for each in self.host.journal("cascade-pki-check"))
        self.expect("pki check", "Clean: nothing is wrong." in said, said)

    def credentials(self) -> None:
        """The passphrase from systemd, in the clear and encrypted; the services' user has no file of it."""
        self.shell(
            "systemctl stop cascade; mkdir -p -m 700 /etc/credstore /etc/credstore.encrypted; "
            f"install -m 600 {INSTALLATION}/secrets/passphrase /etc/credstore/cascade.passphrase; "
            f"rm {INSTALLATION}/secrets/passphrase; systemctl start cascade; systemctl stop cascade"
        )
        self.shell(
            "systemd-creds encrypt --with-key=host --name=passphrase /etc/credstore/cascade.passphrase "
            "/etc/credstore.encrypted/cascade.passphrase; mkdir -p /etc/systemd/system/cascade.service.d"
        )
        drop_in = "[Service]\nLoadCredentialEncrypted=passphrase:/etc/credstore.encrypted/cascade.passphrase\n"
        self.host.write("/etc/systemd/system/cascade.service.d/passphrase.conf", drop_in)
        self.shell(
            "mv /etc/credstore/cascade.passphrase /root/passphrase; systemctl daemon-reload; systemctl start cascade"
        )
        self.shell(
            f"install -o cascade -g cascade -m 600 /root/passphrase {INSTALLATION}/secrets/passphrase; "
            "rm -r /etc/systemd/system/cascade.service.d; systemctl daemon-reload; systemctl restart cascade"
        )

    def wrong_settings(self) -> None:
        """A wrong setting stops the service for good, names the setting, and is not tried again."""
        settings = f"{INSTALLATION}/fabric/settings.toml"
        self.shell(f"cp -p {settings} /root/settings; sed -i '1i nonsense = 1' {settings}")
        self.host.run("systemctl", "restart", "cascade")
        shown = self.host.shown("cascade", "ActiveState", "ExecMainStatus", "NRestarts")
        self.expect(
            "a wrong setting", shown == {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}, shown
        )
        said = [str(each["MESSAGE"]) for each in self.host.journal("cascade", "--lines=20")]
        self.expect("names the setting", any("nonsense" in each for each in said), said)
        self.shell(f"cp -p /root/settings {settings}; chown cascade: {settings}; systemctl start cascade")

    def hanging(self) -> None:
        """The watchdog kills a process that hangs, and a new one starts."""
        self.host.write("/run/systemd/system/cascade.service.d/quick.conf", "[Service]\nWatchdogSec=3\nRestartSec=1\n")
        self.shell("systemctl daemon-reload; systemctl restart cascade")
        before = self.host.shown("cascade", "MainPID")["MainPID"]
        self.shell(f"kill -STOP {before}")

        def again() -> bool:
            shown = self.host.shown("cascade", "MainPID", "ActiveState")
            return shown["ActiveState"] == "active" and shown["MainPID"] != before

        wait_until("a new process after the watchdog", again, ANSWER_SECONDS_MAX)
        self.shell("rm -r /run/systemd/system/cascade.service.d; systemctl daemon-reload; systemctl restart cascade")

    def two_forms(self) -> None:
        """One process each in place of one for all, and an upgrade of that form."""
        self.shell("systemctl disable --now cascade; systemctl enable --now cascade-breakwater cascade-fabric")
        self.host.install(self.old)
        states = [self.state(each) for each in SERVICES]
        self.expect(
            "the services, one process each, after a change of version",
            states == ["inactive", "active", "active"],
            states,
        )
        self.serves("with one process each")
        self.shell("systemctl start cascade")
        states = [self.state(each) for each in SERVICES]
        self.expect("never both forms", states == ["active", "inactive", "inactive"], states)

    def removal(self) -> None:
        """A removal and a purge keep the keys and say so. The package comes back to a cloud that runs."""
        self.shell(f"apt-get remove --yes --quiet {PACKAGE}")
        self.expect("still runs", self.host.run("pgrep", "-u", "cascade").status != 0)
        said = self.host.run("apt-get", "purge", "--yes", "--quiet", PACKAGE)
        self.expect("says what it keeps", f"Kept: {HOME}" in said.out + said.error, (said.out + said.error)[-500:])
        self.shell(f"test -e {INSTALLATION}/breakwater/settings.toml; test ! -e /etc/cascade")
        self.host.install(self.new)
        self.shell("systemctl enable --now cascade")
        self.serves("after a purge and a new installation of the package")
