"""Every answer of every exchange is lost, one at a time and in pairs: one node, one seat, and no suspected clone.

`tests/system/test_lost_answers.py` has one loss of two procedures. The table is in `tests/system/support/lost_answers.py`.
"""

import argparse
import tempfile
import time
from pathlib import Path

from lab.processes import StepFailed, ended
from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import Outcome, Say
from tests.system.support.harness import new_cloud
from tests.system.support.lost_answers import Subject, losses

USUAL_TIME = "8 min"
MINUTES_MAX = 30.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of losses."""
    parser.add_argument("--singles", action="store_true", help="lose one answer at a time only")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every loss. A loss that stops is a finding, and the other losses continue with another machine."""
    findings: list[str] = []
    taken = 0
    with tempfile.TemporaryDirectory(prefix="cascade-lost-") as folder:
        directory = Path(folder)
        cloud = new_cloud(directory).init()
        with ended(cloud), SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            cloud.up()
            subject = Subject(directory, cloud, chip, "subject-0")
            for number, loss in enumerate(losses(pairs=not options.singles), start=1):
                begun = time.monotonic()
                try:
                    found = subject.take(loss)
                except (StepFailed, AssertionError) as error:
                    found = [f"{loss}: the row stopped: {error}"]
                if found:
                    subject.machine.kill()
                    subject = Subject(directory, cloud, chip, f"subject-{number}")
                    subject.machine.run("activate", str(subject.file))
                taken += 1
                findings += found
                say(f"{time.monotonic() - begun:.1f} s  {loss}: {'; '.join(found) or 'no clone'}")
            subject.machine.kill()
    return Outcome({"losses": taken}, tuple(findings))
