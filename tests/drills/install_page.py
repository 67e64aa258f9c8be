"""The commands of docs/install.md, word for word, in a fresh Debian: cloud, agent, activation, a gated program.

The packages are built, signed with a throwaway key, and served at the address of the page. The first container becomes
the cloud's host and a machine, the second one a machine without a TPM. A container has no TPM device, so the first one
has a software TPM, and the agent in it runs in development mode. A host whose board and disks report no serial numbers,
such as a small virtual machine, cannot be a machine without a TPM: the last command is then left out, and the figures
say so. Needs root and a network.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from lab.debian_root import Release, debian_root
from lab.nspawn import TPM_TCTI, Container, missing_packages
from lab.processes import StepFailed, wait_until
from lab.tpm import SoftTpm
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.package_server import public_key, served
from tools.packages import root

USUAL_TIME = "6 min"
MINUTES_MAX = 30.0

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = REPOSITORY / "docs/install.md"
TARGETS: Mapping[Release, str] = {"bookworm": "debian12", "trixie": "debian13"}
WITHOUT_TPM = "A machine without a TPM"
NAMES = "127.0.0.1 cloud.example.com packages.example.com\n"
KEY = "cascade-archive-keyring.asc"
SERIALS = ("/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/board_serial")
WAIT_SECONDS = 60.0
INSTALL_SECONDS_MAX = 900.0
_BLOCK = re.compile(r"^## (?P<heading>[^\n]+)$|^```\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The blocks of commands in a page, each with the heading of its section."""
    heading = ""
    found = []
    for match in _BLOCK.finditer(page):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append((heading, match["commands"]))
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the release, and where roots and built packages are kept."""
    parser.add_argument("--suite", choices=sorted(TARGETS), default="bookworm", help="the release (default: bookworm)")
    parser.add_argument("--packages", type=Path, help="a signed result of `make packages` (default: build one)")
    parser.add_argument(
        "--cache", type=Path, default=REPOSITORY / "build", help="keeps roots and parts of packages (build)"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Serve the packages, and run the blocks of the page in their order."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if missing := sorted({*missing_packages(), *root.missing_packages(root.NEEDED)}):
        raise CannotRun(f"programs are missing. Run `apt-get install {' '.join(missing)}`")
    cache = options.cache.resolve()
    with (
        tempfile.TemporaryDirectory(prefix="install-", dir="/var/tmp", ignore_cleanup_errors=True) as name,
        ExitStack() as ends,
    ):
        folder = Path(name)
        say("packages")
        built = options.packages or _built(folder / "built", cache, options.suite)
        (folder / "www").mkdir()
        (folder / "www/repo").symlink_to(built.resolve() / "repo")
        try:
            ends.enter_context(served(folder / "www", 80))
        except OSError as error:
            raise CannotRun(
                f"cannot serve the packages at port 80 of loopback: {error}. Stop what listens there"
            ) from error
        home = debian_root(cache / "roots", options.suite)
        chip = ends.enter_context(SoftTpm(folder / "chip"))
        first = ends.enter_context(Container(folder / "first", home, "first"))
        second = ends.enter_context(Container(folder / "second", home, "second"))
        for container in (first, second):
            container.start()
            container.checked("/bin/sh", "-ec", "cat >>/etc/hosts", given=NAMES)
            container.write(f"/root/{KEY}", public_key(built))
        first.start_tpm(chip.directory)
        roots = chip.ek_roots_pem.read_text() + chip.ek_intermediates_pem.read_text()
        first.write("/root/tpm-maker-root.pem", roots)
        return Reader(first, second, say).read(PAGE.read_text("utf-8"))


def _built(to: Path, cache: Path, suite: Release) -> Path:
    command = [sys.executable, "-m", "tools.packages", "--target", TARGETS[suite], "--throwaway-key"]
    command += ["--to", str(to), "--cache", str(cache / "packages")]
    if subprocess.run(command, check=False, cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode != 0:
        raise CannotRun("the packages cannot be built. See the text above")
    return to


class Reader:
    """A person who types each block of the page."""

    def __init__(self, first: Container, second: Container, say: Say) -> None:
        self.first = first
        self.second = second
        self.say = say
        self.ids: dict[str, str] = {}
        self.figures: dict[str, Figure] = {"commands": 0}
        self.findings: list[str] = []

    def read(self, page: str) -> Outcome:
        """Run every block. A command that fails ends the reading."""
        found = blocks(page)
        if not found:
            self.findings.append(f"{PAGE} has no commands")
        try:
            for heading, commands in found:
                self.block(heading, commands)
        except StepFailed as error:
            self.findings.append(str(error))
        return Outcome(self.figures, tuple(self.findings))

    def block(self, heading: str, commands: str) -> None:
        """Run a block where the page says, and look at what it says about the result. Raises StepFailed."""
        begun = time.monotonic()
        for word, value in self.ids.items():
            commands = commands.replace(word, value)
        said = ""
        for container in self.places(heading, commands):
            said = self.typed(container, commands)
        for word, pattern in (("TENANT", r"\bten_[0-9a-z]+"), ("NODE", r"\bnode_[0-9a-z]+")):
            if word not in self.ids and (match := re.search(pattern, said)):
                self.ids[word] = match[0]
        self.results(commands, said)
        self.figures["commands"] = int(self.figures["commands"]) + len(commands.splitlines())
        self.say(f"{time.monotonic() - begun:.1f} s  {heading}: {commands.splitlines()[0]}")

    def places(self, heading: str, commands: str) -> list[Container]:
        """Where a block is typed. Both systems get the repository."""
        if heading == "The repository":
            return [self.first, self.second]
        if heading == WITHOUT_TPM and "cascadia activate" in commands:
            if not any(Path(name).exists() for name in SERIALS):
                self.figures["machine without a TPM"] = "not run: this host reports no serial number of a board"
                return []
            self.typed(self.second, "apt-get install --yes cascadia")
            name = "/root/without-tpm.json"
            self.second.write(name, self.first.path(name).read_bytes(), 0o600)
            return [self.second]
        return [self.first]

    def typed(self, container: Container, commands: str) -> str:
        """What a block prints in root's home. Raises StepFailed."""
        tpm = [] if container is self.second else ["CASCADIA_MODE=development", f"CASCADIA_TPM={TPM_TCTI}"]
        script = f"cd /root\n{commands}"
        return container.checked(
            "env", "DEBIAN_FRONTEND=noninteractive", *tpm, "/bin/sh", "-ec", script, seconds=INSTALL_SECONDS_MAX
        )

    def results(self, commands: str, said: str) -> None:
        """What the page promises. Raises StepFailed."""
        if "cascadia status" in commands and "active" not in said:
            raise StepFailed(f"`cascadia status` does not show `active`:\n{said}")
        if "node suspend" in commands:
            wait_until("the program stops", lambda: not self.runs(), WAIT_SECONDS)
        if "node resume" in commands:
            wait_until("the program starts again", self.runs, WAIT_SECONDS)
        if "--software" in commands and said:
            done = self.second.run("cascadia", "status")
            if done.status != 0:
                raise StepFailed(f"a machine without a TPM: {done.out}{done.error}")

    def runs(self) -> bool:
        """Whether the program of the page runs."""
        return self.first.run("systemctl", "is-active", "acme-vision").out.strip() == "active"
