"""Each file of an activated machine's state is damaged in every way, and no agent opens the gate.

`tests/system/test_bad_input.py` damages each file in one way.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from lab.processes import ended
from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.damage import DAMAGES, Copies, check_gates_stay_closed, damaged_files
from tests.system.support.harness import new_cloud, new_machine

USUAL_TIME = "1 min"
MINUTES_MAX = 10.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """This drill has no options."""


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Activate a machine, stop the cloud, and start an agent on each damaged copy of the state."""
    del options
    findings: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-damage-")))
        chip = stack.enter_context(SoftTpm(scratch / "chip", ca=scratch / "maker", bus=shared_bus()))
        cloud, machine = new_cloud(scratch / "cloud").init(), new_machine(scratch, chip)
        with ended(cloud):
            cloud.up()
            machine.run("activate", str(cloud.code(cloud.tenant(chip, "damaged"))))
        (machine.state / "lock").unlink()
        copies = Copies(scratch / "copies", chip, machine.state)
        cases = [(names, kind) for names in damaged_files(copies.saved) for kind in DAMAGES]
        say(f"{len(cases)} damaged states")
        try:
            check_gates_stay_closed(copies, cases)
        except AssertionError as error:
            findings.append(str(error))
    figures: dict[str, Figure] = {"damaged states": len(cases)}
    return Outcome(figures, tuple(findings))
