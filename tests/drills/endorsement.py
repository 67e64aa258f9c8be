"""Machines with each kind of endorsement certificate activate, restart, renew and rekey, or follow a cure.

The kinds are those of `tests.system.support.endorsed_machine`: faults in certificates, ECC keys only, CA certificates
in the chip, certificates that cannot be read or are not for the EK. `make test` takes two of them.
"""

import argparse
import tempfile
import time
from pathlib import Path

from lab.processes import StepFailed, ended
from lab.tpm import SoftTpm, shared_bus
from node.hwbind.tpm import Tpm
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.endorsed_machine import KINDS, walk
from tests.system.support.harness import new_cloud, new_machine

USUAL_TIME = "3 min"
MINUTES_MAX = 20.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the kind."""
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="this kind only (may be repeated)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take a machine of each kind the whole way, all at one cloud, with one chip that is written again each time."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-endorsement-") as folder:
        directory = Path(folder)
        cloud = new_cloud(directory).init()
        with ended(cloud), SoftTpm(directory / "chip", bus=shared_bus()) as chip:
            cloud.up()
            tpm = Tpm(chip.tcti)
            for number, name in enumerate(options.kind or KINDS):
                begun = time.monotonic()
                machine = new_machine(directory, chip, f"machine-{number}")
                with ended(machine):
                    try:
                        walk(cloud, machine, tpm, KINDS[name])
                        figures[name] = f"{time.monotonic() - begun:.1f} s"
                    except StepFailed as failed:
                        figures[name] = "failed"
                        findings.append(f"{name}: {failed}")
                say(f"{name}: {figures[name]}")
            tpm.close()
    return Outcome(figures, tuple(findings))
