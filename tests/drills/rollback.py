"""Every attack that puts older files back: the gate stays closed, or nothing changes.

`tests/system/support/rollback.py` has the attacks and their expected results. `make test` takes one of each kind.
"""

import argparse
import tempfile
import time
from pathlib import Path

from lab.processes import StepFailed, ended
from lab.tpm import SoftTpm, SoftTpmError, shared_bus
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import forked, new_cloud, new_machine
from tests.system.support.rollback import ROWS, History, walk

USUAL_TIME = "1 min"
MINUTES_MAX = 10.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of attacks."""
    parser.add_argument("--only", default="", help="take the attacks whose name has this text (default: all)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take one machine through its life, and make each attack at its stage."""
    rows = tuple(row for row in ROWS if options.only in row.attack)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cascade-rollback-") as folder:
        directory = Path(folder)
        cloud = new_cloud(directory).init()
        with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            machine = new_machine(directory, chip)
            with ended(cloud, machine):
                cloud.up()
                history = History(cloud, machine, cloud.tenant(chip, "rollback"), directory, forked)
                try:
                    findings = walk(history, rows, say)
                except (StepFailed, SoftTpmError) as error:
                    findings = [f"the walk stopped in the stage {history.stage}: {error}"]
    figures: dict[str, Figure] = {"attacks": len(rows), "wrong": len(findings)}
    say(f"{time.monotonic() - begun:.1f} s")
    return Outcome(figures, tuple(findings))
