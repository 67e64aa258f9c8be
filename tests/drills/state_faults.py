"""Every file-system call of a start and of a read fails with every error code, on an intact and on a torn record.

`agent-faults` lets the calls of a complete, running agent fail. This drill has more error codes, and needs a minute.
"""

import argparse
import tempfile
from pathlib import Path

from lab.tpm import SoftTpm, shared_bus
from node.hwbind import keys
from node.hwbind.tpm import Tpm
from tests.drills.frame import Figure, Outcome, Say
from tests.node.shells import install, trust_of
from tests.node.state_faults import FaultyStart
from tests.simulators.fabric import Fabric

USUAL_TIME = "1 min"
MINUTES_MAX = 15.0
FINDINGS_MAX = 60


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of calls."""
    parser.add_argument("--only", default="", help="only calls whose text contains this text")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Record the calls of a start, then let each fail in each way."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-state-faults-") as folder:
        directory = Path(folder)
        with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as chip:
            port = Tpm(chip.tcti)
            made_keys = port.call(keys.create_ak), port.call(keys.create_node_key)
            port.close()
        fabric = Fabric()
        state = install(directory / "state", fabric, *made_keys)
        record = (state.directory / "current.json").read_bytes()
        for torn in (False, True):
            (state.directory / "current.json").write_bytes(record)
            start = FaultyStart(state, trust_of(fabric), torn=torn)
            faults = [fault for fault in start.faults() if options.only in fault.made]
            say(f"{'torn' if torn else 'intact'} record: {len(faults)} faults")
            findings += [finding for fault in faults if (finding := start.finding(fault))]
            figures[f"faults, {'torn' if torn else 'intact'} record"] = len(faults)
    return Outcome(figures, tuple(findings[:FINDINGS_MAX]))
