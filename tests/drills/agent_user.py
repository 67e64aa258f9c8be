"""The agent as another user than root, without rights: activate, run, revoke, readmit, with commands that root types.

The agent runs as a user of its own, without capabilities, without new privileges, and without memory that is writable and
executable (prctl(2), PR_SET_MDWE). The units of the package add more, which only systemd can show.
"""

import argparse
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import BIN, Process, Side, StepFailed, ended, start_program, wait_until
from lab.tpm import PrivateBus, SoftTpm
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.harness import new_cloud

USUAL_TIME = "1 min"
MINUTES_MAX = 10.0

AGENT = pwd.getpwnam("news").pw_uid
"""The agent's user: an account that Debian has, and that owns no file of a machine without a news server. The D-Bus of
the software TPM refuses a user without an account."""
OTHER = 54321
"""A user who is neither root nor the agent's."""
LOOKED_AT = ("/tmp", "/var", "/run", "/etc", "/dev/shm", "/home")

_RIGHTLESS = (
    "setpriv",
    "--no-new-privs",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--clear-groups",
)
_NO_WRITE_AND_EXECUTE = """
import ctypes, os, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    raise SystemExit("this kernel has no PR_SET_MDWE")
os.umask(int(sys.argv[1], 8))
os.execv(sys.argv[2], sys.argv[2:])
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every row on one machine. Raises CannotRun."""
    if os.geteuid() != 0:
        raise CannotRun("this drill becomes other users: run it as root")
    if shutil.which("setpriv") is None:
        raise CannotRun("setpriv is missing: install util-linux")
    reads = ["setpriv", f"--reuid={AGENT}", "--clear-groups", "test", "-r", str(BIN / "cascadia")]
    if subprocess.run(reads, check=False).returncode:
        raise CannotRun(f"other users cannot read {BIN}: move the checkout to a directory that others can enter")
    findings: list[str] = []
    with ExitStack() as stack:
        site = stack.enter_context(_site())
        for row in ROWS:
            try:
                row(site)
                say(f"good: {row.__name__.replace('_', ' ')}")
            except (AssertionError, StepFailed) as error:
                findings.append(f"{row.__name__}: {str(error) or 'an assertion failed'}")
                say(f"FOUND: {findings[-1]}")
    return Outcome({"rows": len(ROWS), **site.figures}, tuple(findings))


def rightless(directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
    """A `Start` of the agent's user without any right."""
    ids = (f"--reuid={AGENT}", f"--regid={AGENT}")
    wrapped = (sys.executable, "-c", _NO_WRITE_AND_EXECUTE, "077", str(BIN / side), *arguments)
    return start_program(directory, side, [*_RIGHTLESS, *ids, *wrapped], env)


def other_user(directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
    """A `Start` of a user who is neither root nor the agent's."""
    ids = (f"--reuid={OTHER}", f"--regid={OTHER}")
    return start_program(directory, side, [*_RIGHTLESS, *ids, str(BIN / side), *arguments], env)


class Site:
    """A cloud, and a machine whose state directory is the agent's user's. Root types the commands."""

    def __init__(self, cloud: Cloud, directory: Path, chip: SoftTpm) -> None:
        self.cloud = cloud
        self.directory = directory
        self.machine = Machine(directory, chip, "site")
        self.machine.socket = self.machine.directory / "run" / "s.sock"
        with (self.machine.directory / "cascadia.toml").open("a") as file:
            file.write(f'socket = "{self.machine.socket}"\n')
        lines = (self.machine.directory / "cascadia.toml").read_text().splitlines()
        kept = [line for line in lines if not line.startswith("socket") or str(self.machine.socket) in line]
        (self.machine.directory / "cascadia.toml").write_text("\n".join([*kept, ""]))
        for owned in (self.machine.state, self.machine.socket.parent):
            owned.mkdir(0o700)
            os.chown(owned, AGENT, AGENT)
        self.machine.socket.parent.chmod(0o755)
        self.stamp = directory / "stamp"
        self.stamp.touch()
        self.tenant = cloud.tenant(chip)
        self.node = ""
        self.figures: dict[str, Figure] = {}

    def status_of(self, agent: Process) -> dict[str, str]:
        """/proc/PID/status of the agent."""
        lines = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def foreign(self) -> list[str]:
        """Files in the state directory that are not the agent's."""
        return [str(path) for path in self.machine.state.rglob("*") if path.lstat().st_uid != AGENT]


@contextmanager
def _site() -> Iterator[Site]:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-agent-user-")))
        bus = PrivateBus()
        # Other users must reach the bus of the software TPM. On a real machine the group `tss` reaches /dev/tpmrm0.
        Path(bus.address.removeprefix("unix:path=")).parent.chmod(0o755)
        os.environ.update(bus.env)
        chip = stack.enter_context(SoftTpm(scratch / "chip", ca=scratch / "maker", bus=bus))
        cloud = new_cloud(scratch).init()
        stack.enter_context(ended(cloud))
        cloud.up()
        scratch.chmod(0o755)
        site = Site(cloud, scratch, chip)
        stack.enter_context(ended(site.machine))
        yield site


def root_activates_from_a_file_that_only_root_can_read(site: Site) -> None:
    """The files of the activation belong to the agent's user."""
    file = site.cloud.code(site.tenant)
    assert file.stat().st_mode & 0o777 == 0o600, "the activation file is not root's alone"
    site.node = str(site.machine.run("activate", str(file))["node"])
    assert not site.foreign(), f"not the agent's: {site.foreign()}"


def the_agent_runs_without_rights(site: Site) -> None:
    """It serves, grants, and has no capability that it could use or get."""
    agent = site.machine.up(rightless)
    site.machine.wait_state("active")
    assert site.machine.granted()
    status = site.status_of(agent)
    assert status["Uid"].split() == [str(AGENT)] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert site.machine.socket.stat().st_mode & 0o777 == 0o666
    site.figures["resident kB"] = int(status["VmRSS"].split()[0])


def root_asks_and_writes_where_root_wants(site: Site) -> None:
    """Renewal by the agent, and a request in a directory of root."""
    private = site.directory / "private"
    private.mkdir(0o700)
    assert site.machine.run("status")["agent_running"]
    site.machine.run("renew")
    site.machine.run("renew", "--rekey")
    site.machine.run("request", "--out", str(private / "request"))
    assert (private / "request").stat().st_uid == 0
    assert not site.foreign(), f"not the agent's: {site.foreign()}"


def another_user_reads_and_commands_nothing(site: Site) -> None:
    """`status` and `entitlement` answer; a command is refused with the next step."""
    ask = ("entitlement", "vision")
    assert site.machine.start(*ask, "--json", start=other_user).document()["granted"]
    assert site.machine.start("status", "--json", start=other_user).document()["agent_running"]
    refused = site.machine.start("renew", "--json", start=other_user).document(2)["error"]
    assert (refused["code"], refused["next"]) == ("permission_denied", "Run the command as root.")


def a_revoked_machine_is_readmitted_by_one_command(site: Site) -> None:
    """The agent keeps running through it."""
    agent = site.machine.agent
    site.cloud.run("node", "revoke", site.node)
    site.machine.wait_state("revoked")
    site.machine.run("activate", str(site.cloud.code(site.tenant, "--readmit", site.node)))
    site.machine.wait_state("active")
    assert agent is not None
    assert agent.running
    assert site.machine.granted()
    assert not site.foreign(), f"not the agent's: {site.foreign()}"


def without_the_agent_root_works_and_others_do_not(site: Site) -> None:
    """`status` of root reads the state of the agent's user. Another user reads what to do."""
    site.machine.down()
    assert site.machine.run("status")["license"]["state"] == "active"
    site.machine.run("renew")
    refused = site.machine.start("status", "--json", start=other_user).document(2)["error"]
    assert (refused["code"], refused["next"]) == ("not_permitted", "Run the command as root.")
    agent = site.machine.launch(rightless)
    wait_until("the agent's answer", site.machine.answers)
    assert agent.running
    assert not site.foreign(), f"not the agent's: {site.foreign()}"


def root_starts_the_agent_as_its_user(site: Site) -> None:
    """`cascadia run` that root types is the agent's user too."""
    site.machine.down()
    agent = site.machine.up()
    assert site.status_of(agent)["Uid"].split() == [str(AGENT)] * 4
    assert site.machine.down() == 0


def nothing_is_written_elsewhere(site: Site) -> None:
    """No file of the agent's user is newer than the drill, outside of the state and the socket's directory."""
    places = [place for place in LOOKED_AT if Path(place).exists()]
    found: Any = subprocess.run(
        ["find", *places, "-xdev", "-user", str(AGENT), "-newer", str(site.stamp), "-print"],
        capture_output=True,
        check=False,
        text=True,
    ).stdout.splitlines()
    own = (str(site.machine.state), str(site.machine.socket.parent))
    elsewhere = [path for path in found if not path.startswith(own)]
    assert found, "the state itself was not found"
    assert not elsewhere, f"written elsewhere: {elsewhere}"


ROWS = (
    root_activates_from_a_file_that_only_root_can_read,
    the_agent_runs_without_rights,
    root_asks_and_writes_where_root_wants,
    another_user_reads_and_commands_nothing,
    a_revoked_machine_is_readmitted_by_one_command,
    without_the_agent_root_works_and_others_do_not,
    root_starts_the_agent_as_its_user,
    nothing_is_written_elsewhere,
)
