"""Every condition in which an administrator leaves a TPM: works, or is refused with its cause, and the cure works.

`tests/system/test_tpm_administration.py` has one row of each kind. The conditions and their expected results are in
`tests/system/support/tpm_administration.py`.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

from lab.processes import StepFailed, ended
from lab.tpm import SoftTpm, SoftTpmError, shared_bus
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import new_cloud
from tests.system.support.tpm_administration import CONDITIONS, STEPS, Row

USUAL_TIME = "4 min"
MINUTES_MAX = 20.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of conditions."""
    parser.add_argument("--only", default="", help="take the conditions whose name has this text (default: all)")


def copied(chip: SoftTpm, directory: Path, name: str) -> SoftTpm:
    """A copy of the chip, which is not running yet."""
    copy = chip.copy_to(directory / f"{name}-chip")
    return SoftTpm(copy.directory, ca=copy.ca, bus=shared_bus())


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every row. A row that stops is a finding, and the other rows continue."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-tpm-") as folder:
        directory = Path(folder)
        chip = SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus())
        chip.manufacture()
        cloud = new_cloud(directory).init()
        with ended(cloud):
            cloud.up()
            for number, condition in enumerate(CONDITIONS):
                if options.only not in condition.name:
                    continue
                begun = time.monotonic()
                tenant = cloud.tenant(chip, f"tenant-{number}")
                row = Row(
                    directory / str(number), cloud, tenant, condition, partial(copied, chip, directory / str(number))
                )
                try:
                    row.run()
                except (StepFailed, SoftTpmError) as error:
                    row.findings.append(f"{condition.name}: the row stopped: {error}")
                results = "; ".join(f"{step} {row.results.get(step, '-')}" for step in (*STEPS, "cured"))
                figures[condition.name] = results
                findings += row.findings
                say(f"{time.monotonic() - begun:.1f} s  {condition.name}: {results}")
                for finding in row.findings:
                    say(f"FOUND {finding}")
    return Outcome(figures, tuple(findings))
