"""Every mishap of a machine on real services and software TPMs: the node comes back, and each failing twin is refused.

`tests/system/test_recovery.py` has one row. `tests/system/support/recoveries.py` has the rows of `cascadia recover`,
`recoveries_of_nodes.py` those of a node that comes back by a contact or a settlement, `recoveries_of_clocks.py` those of
a wrong clock, and `recoveries_of_clouds.py` those of a cloud that has changed meanwhile. Each row has a tenant and two chips of its own, which it may clear.
"""

import argparse
import tempfile
import time
from pathlib import Path

from lab.processes import StepFailed, ended
from lab.tpm import SoftTpm, SoftTpmError, shared_bus
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support import recoveries, recoveries_of_clocks, recoveries_of_clouds, recoveries_of_nodes
from tests.system.support.harness import new_cloud
from tests.system.support.recoveries import Place

USUAL_TIME = "4 min"
MINUTES_MAX = 25.0

ROWS = recoveries.ROWS | recoveries_of_nodes.ROWS | recoveries_of_clocks.ROWS | recoveries_of_clouds.ROWS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of rows."""
    parser.add_argument("--only", default="", help="take the rows whose name has this text (default: all)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every row. A row that stops is a finding, and the other rows continue."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-recoveries-") as folder:
        directory = Path(folder)
        made = [SoftTpm(directory / f"chip-{number}", ca=directory / "ca", bus=shared_bus()) for number in range(2)]
        for chip in made:
            chip.manufacture()
        installation = new_cloud(directory / "installation").init()
        for number, (name, row) in enumerate(ROWS.items()):
            if options.only not in name:
                continue
            begun = time.monotonic()
            place = directory / str(number)
            first, second = (chip.copy_to(place / f"chip-{at}") for at, chip in enumerate(made))
            # The rows use the same chips, and a chip is one node of an installation.
            cloud = new_cloud(place).copy_from(installation)
            result = "good"
            with first, second, ended(cloud):
                cloud.up()
                site = Place(place / "site", cloud, (first, second), f"tenant-{number}")
                try:
                    row(site)
                except (AssertionError, StepFailed, SoftTpmError) as error:
                    result = "found"
                    findings.append(f"{name}: {error}")
                finally:
                    site.end()
            figures[name] = result
            say(f"{time.monotonic() - begun:.1f} s  {name}: {result}")
    return Outcome(figures, tuple(findings))
