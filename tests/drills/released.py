"""The machine and the cloud of each release go on with today's programs: same node, new lease, and the seat comes back.

For each fixture of `tests/released`: today's cloud starts on its databases, and today's agent on its state and its
software TPM. The second time a backup of the cloud is restored into PostgreSQL first. However old the fixture is, the agent comes back by itself. Then the machine hands its seat back.
"""

import argparse
import tempfile
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from lab.cloud import PORTS, Cloud
from lab.processes import StepFailed, accepts, ended, wait_until
from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.released.unpack import RELEASES, Released, cloud_in, unpack
from tests.system.support.harness import new_machine
from tests.system.support.lost_cloud import copies_of, restored

USUAL_TIME = "1 min"
MINUTES_MAX = 10.0
ENGINES = ("sqlite", "postgresql")
GOOD = ("active", "refresh-due")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the releases."""
    parser.add_argument("--release", choices=RELEASES, action="append", help="this one only (may be repeated)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run each release. A step that fails is a finding."""
    figures: dict[str, Figure] = {}
    findings = []
    for release, engine in product(options.release or RELEASES, ENGINES):
        say(f"{release}, {engine}")
        with tempfile.TemporaryDirectory(prefix="cascade-released-") as name:
            found = unpack(release, Path(name))
            if taken := [port for port in range(found.port, found.port + PORTS) if accepts(port)]:
                raise CannotRun(f"the ports {taken} are in use, and the fixture's addresses are signed. Free them")
            try:
                figures[f"{release}, {engine}, seq"] = _go_on(Path(name), found, engine)
            except (AssertionError, StepFailed) as error:
                findings.append(f"{release}, {engine}: {error}")
    return Outcome(figures, tuple(findings))


def _go_on(directory: Path, found: Released, engine: str) -> int:
    """Go on with the fixture, its cloud on a database engine. Returns the number of the last lease. Raises AssertionError, StepFailed."""
    with ExitStack() as stack:
        chip = stack.enter_context(SoftTpm(directory / "chip", bus=shared_bus()))
        (directory / "machine" / "state").rename(directory / "state")
        (directory / "machine").rmdir()
        cloud, machine = cloud_in(directory, found), new_machine(directory, chip, "machine")
        if engine == "postgresql":
            cloud = _moved(cloud, directory)
        (directory / "state").rename(machine.state)
        stack.enter_context(ended(cloud, machine))
        if not (cloud.process or cloud.up()).running:
            raise StepFailed(f"the cloud did not start:\n{cloud.process.report() if cloud.process else ''}")
        machine.up()

        def answered() -> bool:
            status = machine.ask("/v1/status")
            return bool(status["last_contact_at"] and status["license"]["state"] in GOOD and not status["conditions"])

        wait_until("a contact without a problem", answered)
        licence = machine.ask("/v1/license")
        assert (licence["node"], licence["generation"]) == (found.node, found.generation), licence
        machine.run("renew", "--rekey")
        assert machine.granted(), "the entitlement is not granted"
        done = machine.run("deactivate", "--yes")
        assert (done["seat"], done["left"]) == ("free", []), done
        assert cloud.rows("fabric", "SELECT sum(seats_taken), max(standing) FROM code, node") == [(0, "released")]
        return int(licence["lease"]["seq"])


def _moved(cloud: Cloud, directory: Path) -> Cloud:
    """Restore a backup of the cloud into PostgreSQL, and start it."""
    copies = copies_of(cloud, directory / "copies")
    place = ("--dir", str(cloud.directory), "--out", str(copies.backup))
    cloud.run("backup", "make", *place, "--recipient", copies.recipient)
    return restored(cloud, copies, directory / "restored")
