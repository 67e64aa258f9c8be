"""A full rotation of root and both issuing CAs while a fleet of nodes sends requests.

`tests/system/test_rotation.py` has the same rotation with a small fleet.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from lab.processes import ended
from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import new_cloud, new_machine
from tests.system.support.rotation import Rotation, rotate_under_load

USUAL_TIME = "2 min"
MINUTES_MAX = 15.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of nodes."""
    parser.add_argument("--nodes", type=int, default=50, help="nodes at work (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run one rotation. The first failed step ends the rotation and is the finding."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-rotation-")))
        chip = stack.enter_context(SoftTpm(scratch / "chip", ca=scratch / "maker", bus=shared_bus()))
        cloud, machine = new_cloud(scratch / "cloud").init(), new_machine(scratch, chip)
        stack.enter_context(ended(cloud, machine))
        cloud.up()
        say(f"{options.nodes} nodes")
        try:
            fleet = rotate_under_load(Rotation(cloud, scratch / "hall"), machine, scratch, options.nodes)
        except AssertionError as error:
            return Outcome({"nodes": options.nodes}, (str(error),))
    figures: dict[str, Figure] = {"nodes": options.nodes}
    figures |= {f"requests: {what}": count for what, count in sorted(fleet.made.items())}
    return Outcome(figures)
