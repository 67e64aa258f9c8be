"""Kills `cascade backup make` and `cascade restore` before and after each fault point, on both engines, and repeats them.

After a kill there is no half backup, and no service starts from a half restore. The repeat makes the same rows. A
passphrase is used once, with the library's own cost.
"""

import argparse
import asyncio
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from cloud.backup.contents import Installation, read_installation
from cloud.backup.format import ServicePart
from cloud.process.settings import SettingsError
from cloud.storage import Location
from lab.cloud import Cloud
from lab.postgres import cluster
from lab.processes import ended
from protocol.faults import Stage
from tests.cloud.backup.support import Content, content_of, databases_of, names_in, unchanged
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.fault_points import points_in_code
from tests.system.support.harness import Plan, new_cloud
from tests.system.support.lost_cloud import Copies, copies_of

USUAL_TIME = "4 min"
MINUTES_MAX = 20.0
STAGES: tuple[Stage, ...] = ("before", "after")
ENGINES = ("sqlite", "postgresql")
"""The databases into which the restores go."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the engine."""
    parser.add_argument("--engine", choices=ENGINES, action="append", help="walk this engine only (may be repeated)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Walk all points. Each failed case is a finding."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-backup-walk-")))
        cloud = new_cloud(scratch / "first").init()
        stack.enter_context(ended(cloud))
        copies = copies_of(cloud, scratch / "copies")
        kept = read_installation(cloud.directory)
        for point in points_in_code("backup"):
            for stage in STAGES:
                findings += _backup_killed(cloud, copies, scratch / f"{point}-{stage}", point, stage)
        cloud.run("backup", "make", *_place(cloud, copies.backup), "--recipient", copies.recipient)
        findings += _passphrase(cloud, copies)
        figures["age"], wrong = _by_another_program(copies)
        findings += wrong
        before = asyncio.run(content_of(databases_of(kept)))
        for engine in options.engine or ENGINES:
            for point in points_in_code("restore"):
                say(f"{engine} {point}")
                for stage in STAGES:
                    walk = _Restore(cloud, copies, scratch / f"{engine}-{point}-{stage}", engine == "postgresql")
                    findings += walk.killed(point, stage, before)
                    figures[f"restores on {engine}"] = int(figures.get(f"restores on {engine}", 0)) + 1
    return Outcome(figures, tuple(findings))


def _place(cloud: Cloud, out: Path) -> tuple[str, ...]:
    return ("--dir", str(cloud.directory), "--out", str(out))


def _run_killed(cloud: Cloud, scratch: Path, arguments: tuple[str, ...], point: str, stage: Stage) -> str:
    """Run a command that has to be killed. Returns what is wrong, or an empty text."""
    scratch.mkdir(parents=True, exist_ok=True)
    process = Plan(kill=(point, stage))(scratch, "cascade", *arguments, "--json", env=cloud.env)
    code = process.wait()
    return "" if code == -9 else f"{point} {stage}: not killed, exit code {code}\n{process.report()}"


def _backup_killed(cloud: Cloud, copies: Copies, scratch: Path, point: str, stage: Stage) -> list[str]:
    folder = scratch / "out"
    folder.mkdir(parents=True)
    arguments = ("backup", "make", *_place(cloud, folder / "b"), "--recipient", copies.recipient)
    if wrong := _run_killed(cloud, scratch, arguments, point, stage):
        return [wrong]
    made = "b" in names_in(folder)
    if made != ((point, stage) == ("backup.file.publish", "after")):
        return [f"{point} {stage}: {names_in(folder)}"]
    cloud.run("backup", "make", *_place(cloud, folder / "c"), "--recipient", copies.recipient)
    for name in ("b", "c") if made else ("c",):
        cloud.run("backup", "check", str(folder / name), *copies.proof)
    return []


def _passphrase(cloud: Cloud, copies: Copies) -> list[str]:
    """Make and check a backup with a passphrase, and check it with a wrong one."""
    out, wrong = copies.folder / "with-passphrase", copies.folder / "wrong"
    wrong.write_text("another passphrase")
    wrong.chmod(0o600)
    right = str(copies.folder / "passphrase")
    cloud.run("backup", "make", *_place(cloud, out), "--passphrase-file", right)
    cloud.run("backup", "check", str(out), "--passphrase-file", right, "--key-passphrase-file", right)
    refused = cloud.run("backup", "check", str(out), "--passphrase-file", str(wrong), expect=65)
    return [] if refused["error"]["code"] == "backup_key_wrong" else [f"a wrong passphrase: {refused}"]


def _by_another_program(copies: Copies) -> tuple[str, list[str]]:
    """Decrypt a backup with the program `age`, if this machine has it. Returns its version, and what is wrong."""
    program = shutil.which("age")
    if program is None:
        return "not installed", []
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    content = copies.backup.read_bytes().partition(b"\n")[2]
    command = [program, "--decrypt", "--identity", str(copies.folder / "identity")]
    lines = subprocess.run(command, input=content, check=False, capture_output=True).stdout.splitlines()
    is_whole = bool(lines) and b'"cascade_backup":1' in lines[0] and b'"type":"end"' in lines[-1]
    return version, [] if is_whole else [f"age {version} does not decrypt the backup"]


class _Restore:
    """One directory, into which a restore is killed and repeated."""

    def __init__(self, cloud: Cloud, copies: Copies, scratch: Path, on_server: bool) -> None:
        self._cloud = cloud
        self._scratch = scratch
        self._new = scratch / "new"
        trust = ("--trust", cloud.env["CASCADE_TRUST"])
        self._arguments = ("restore", str(copies.backup), "--into", str(self._new), *copies.proof, *trust)
        services: tuple[ServicePart, ...] = ("fabric", "breakwater") if on_server else ()
        self._databases: dict[ServicePart, Location] = {service: cluster().create() for service in services}
        for service, location in self._databases.items():
            self._arguments += (f"--{service}-database", str(location))

    def killed(self, point: str, stage: Stage, before: Content) -> list[str]:
        """Kill the restore, then repeat it. Returns what is wrong."""
        name = f"{point} {stage}, {'PostgreSQL' if self._databases else 'SQLite'}"
        if wrong := _run_killed(self._cloud, self._scratch, self._arguments, point, stage):
            return [wrong]
        if (point, stage) == ("restore.marker.remove", "after"):
            self._cloud.run(*self._arguments, expect=2)  # the installation is whole, so a repeat is refused
        else:
            findings = self._unusable(name)
            self._cloud.run(*self._arguments)
            if findings:
                return findings
        found = read_installation(self._new)
        if unchanged(asyncio.run(content_of(databases_of(_with(found, self._databases))))) != unchanged(before):
            return [f"{name}: other rows"]
        if names_in(self._new) != ["breakwater", "fabric", "operator", "secrets"]:
            return [f"{name}: {names_in(self._new)}"]
        self._drop()
        return []

    def _unusable(self, name: str) -> list[str]:
        """Check that no settings can be read. Returns what is wrong."""
        try:
            read_installation(self._new)
        except SettingsError:
            return []
        return [f"{name}: services would start"]

    def _drop(self) -> None:
        for location in self._databases.values():
            assert not isinstance(location, Path)
            cluster().drop(location)


def _with(found: Installation, databases: dict[ServicePart, Location]) -> Installation:
    """The installation, after a check that its settings name these databases."""
    for service, location in databases.items():
        assert str(found.database(service)) == str(location), service
    return found
