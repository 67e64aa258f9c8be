"""Certificates of each profile, lists, OCSP, TLS and EST, as OpenSSL, GnuTLS, NSS, Java, Go and node.js use them.

Each program parses a certificate of each profile, verifies paths, refuses what is revoked, and connects to a running
Breakwater. Services enrol with the requests that keytool, certtool and openssl make by default. `tests/strangers/` has
the tasks and the programs. `docs/pki.md` lists what a program cannot do; every other refusal is a finding, and so is a
row that is no longer true.

zlint is not among the programs, because Debian has no package of it.
"""

import argparse
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lab.processes import ended
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.strangers.by_commands import GnuTls, Nss, OpenSsl
from tests.strangers.by_lines import Go, Java, Node
from tests.strangers.cells import FETCHED, Cell, cells, cells_after_theft, met
from tests.strangers.enrolment import ENROLMENTS, enrol
from tests.strangers.limits import limit_of
from tests.strangers.material import Material
from tests.strangers.tasks import Answer, Program
from tests.system.support.harness import new_cloud

USUAL_TIME = "40 s"
MINUTES_MAX = 10.0

PROGRAMS: tuple[Program, ...] = (OpenSsl(), GnuTls(), Nss(), Java(), Go(), Node())
VERSIONS = {
    "openssl": ("openssl", "version"),
    "certtool": ("certtool", "--version"),
    "libnss3-tools": ("dpkg-query", "--show", "libnss3-tools"),
    "java": ("java", "--version"),
    "go": ("go", "version"),
    "node": ("node", "--version"),
}
SAID_CHARS = 300
"""How much of a program's words a finding quotes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the drill has no options."""
    del parser


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Start a cloud, make the files, and give them to each program."""
    del options
    _require_programs()
    figures: dict[str, Figure] = {name: _first_line(command) for name, command in VERSIONS.items()}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-strangers-") as scratch:
        cloud = new_cloud(Path(scratch)).init()
        folder = Path(scratch) / "files"
        folder.mkdir()
        with ended(cloud):
            cloud.up()
            material = Material(folder, cloud)
            material.make()
            say("the cloud runs, and its certificates are in files")
            table = cells(material.leaves, material.port, cloud.port)
            for program in PROGRAMS:
                _give(program, table, folder, figures, findings)
                say(f"{program.NAME} has answered")
            for number, request in enumerate(ENROLMENTS):
                wrong_here = enrol(cloud, Path(scratch) / f"service-{number}", request)
                figures[f"EST: {request.name}"] = "refused" if request.refusal else "enrolled and renewed"
                if wrong_here:
                    figures[f"EST: {request.name}"] = "wrong"
                    findings.append(f"EST with {request.name}: {wrong_here}")
            say("the services have enrolled")
            material.publish_theft()
            for program in PROGRAMS:
                if program.FETCHES:
                    _give(program, cells_after_theft(material.leaves), folder, figures, findings)
    return Outcome(figures, tuple(findings))


def _require_programs() -> None:
    """Raises CannotRun. A command is a name, or the path of a library."""
    needs = {command: package for program in PROGRAMS for command, package in program.NEEDS.items()}
    missing = [
        f"{command} (package {package})"
        for command, package in {**needs, "curl": "curl"}.items()
        if not (Path(command).exists() if command.startswith("/") else shutil.which(command))
    ]
    if missing:
        raise CannotRun(f"these programs are missing: {', '.join(missing)}. Install the packages")


def _first_line(command: tuple[str, ...]) -> str:
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return said.splitlines()[0].strip()


def _give(program: Program, table: list[Cell], folder: Path, figures: dict[str, Figure], findings: list[str]) -> None:
    """Have a program do the tasks, except those for programs that fetch lists if it does not."""
    own = [cell for cell in table if cell.check != FETCHED or program.FETCHES]
    answers = program.answers(folder, [task for cell in own for task, _ in cell.tasks])
    judge(program.NAME, own, answers, figures, findings)


def judge(
    program: str, table: list[Cell], answers: list[Answer], figures: dict[str, Figure], findings: list[str]
) -> None:
    """Compare a program's answers with the table and with the rows of its limits."""
    left: Iterator[Answer] = iter(answers)
    done: dict[str, list[str]] = defaultdict(list)
    for cell in table:
        place = f"{program}, {cell.profile}"
        wrong = [
            (task, expected, answer)
            for (task, expected), answer in zip(cell.tasks, [next(left) for _ in cell.tasks], strict=True)
            if not met(answer, expected)
        ]
        limit = limit_of(program, cell.profile, cell.check)
        done[place].append(f"no {cell.check}" if wrong else cell.check)
        if limit is None:
            findings += [
                f"{place}, {cell.check}: expected {expected}, {_said(answer)} ({task})"
                for task, expected, answer in wrong
            ]
        elif not wrong:
            findings.append(f"{place}, {cell.check}: docs/pki.md says that this fails, but it works")
        elif not any(limit.says in answer.said for _, _, answer in wrong):
            findings.append(f"{place}, {cell.check}: it fails for another reason: {_said(wrong[0][2])}")
    for place, checks in done.items():
        known = [str(figures[place])] if place in figures else []
        figures[place] = ", ".join([*known, *checks])


def _said(answer: Answer) -> str:
    return f"{'accepted' if answer.accepted else 'refused'}: {answer.said[-SAID_CHARS:]}"
