"""A machine is copied with its TPM, or put back: what the cloud sees, what each policy does, and how it is settled.

`tests/system/test_clones.py` has one row of each kind.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lab.cloud import Cloud
from lab.processes import StepFailed, ended
from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.copies import Copies, activated, boot
from tests.system.support.harness import new_cloud

USUAL_TIME = "4 min"
MINUTES_MAX = 20.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of rows."""
    parser.add_argument("--only", default="", help="take the rows whose name has this text (default: all)")


def _forget(copies: Copies) -> None:
    for path in copies.machine.state.rglob("renewal-token*.json"):
        path.unlink()


def _suspected(copies: Copies, cause: str) -> None:
    case = copies.case()
    assert case is not None, "no clone is suspected"
    assert case["cause"] == cause, f"the cause is {case['cause']}, not {cause}"
    assert len(case["evidence"]) >= 2, "the evidence of one holder is missing"


def _not_suspected(copies: Copies) -> None:
    assert copies.case() is None, f"a clone is suspected: {copies.case()}"


def _interleaved(copies: Copies) -> None:
    """Both run from the copy on. The second refresh of the older copy is caught."""
    with copies.copy(copies.snapshot("s"), "twin") as twin:
        for each in (copies.machine, twin, copies.machine):
            assert copies.session(each) == "active"
        _not_suspected(copies)
        assert copies.session(twin, "grace") == "grace"
        _suspected(copies, "renewal-token")


def _late_copy(copies: Copies) -> None:
    """The copy starts after three sessions of the original. The original's next session shows two machines."""
    snapshot = copies.snapshot("s")
    for _ in range(3):
        copies.session(copies.machine)
    with copies.copy(snapshot, "twin") as twin:
        boot(twin)  # the copy starts later than the original's sessions, and its TPM shows that
        assert copies.session(twin) == "active"
        _not_suspected(copies)
        copies.session(copies.machine, "grace")
        _suspected(copies, "renewal-token")
        assert copies.session(twin, "grace") == "grace"


def _hidden_token(copies: Copies) -> None:
    """The copy has no token. The counts of its TPM are ahead of the original's."""
    snapshot = copies.snapshot("s")
    copies.session(copies.machine)
    with copies.copy(snapshot, "twin") as twin:
        for _ in range(3):
            boot(twin)
        for path in twin.state.rglob("renewal-token*.json"):
            path.unlink()
        assert copies.session(twin) == "active"
        copies.session(copies.machine, "grace", "active")
        _suspected(copies, "tpm-clock")


def _both_suspended(copies: Copies) -> None:
    copies.cloud.run("tenant", "clone-policy", copies.tenant, "suspend-both")
    with copies.copy(copies.snapshot("s"), "twin") as twin:
        for each in (copies.machine, twin, copies.machine):
            copies.session(each)
        assert copies.session(twin, "suspended") == "suspended"
        copies.machine.wait_state("suspended")
        case = copies.case()
        assert case is not None
        copies.cloud.run("node", "settle", copies.node, "--keep", case["evidence"][0]["id"])
        copies.machine.wait_state("active")
        assert copies.session(twin, "suspended") == "suspended"


def _kept_the_other(copies: Copies) -> None:
    """The operator keeps the older copy, and then corrects the choice."""
    with copies.copy(copies.snapshot("s"), "twin") as twin:
        for each in (copies.machine, twin, copies.machine):
            copies.session(each)
        copies.session(twin, "grace")
        case = copies.case()
        assert case is not None
        current, older = case["evidence"]
        copies.cloud.run("node", "settle", copies.node, "--keep", older["id"])
        twin.wait_state("active")
        assert copies.session(copies.machine, "suspended") == "suspended"
        copies.cloud.run("node", "settle", copies.node, "--keep", current["id"])
        copies.machine.wait_state("active")
        assert copies.session(twin, "suspended") == "suspended"


def _restored(copies: Copies) -> None:
    snapshot = copies.snapshot("s")
    for _ in range(2):
        copies.session(copies.machine)
    copies.put_back(snapshot)
    for _ in range(3):
        assert copies.session(copies.machine) == "active"
    _not_suspected(copies)
    assert copies.actions().count("node.restored") == 1, "the audit has no single entry of the restore"


def _restored_every_night(copies: Copies) -> None:
    snapshot = copies.snapshot("s")
    for _ in range(4):
        copies.session(copies.machine)
        copies.put_back(snapshot)
    copies.session(copies.machine)
    _not_suspected(copies)


def _lost_token(copies: Copies) -> None:
    copies.machine.down()
    _forget(copies)
    for _ in range(2):
        assert copies.session(copies.machine) == "active"
    _not_suspected(copies)


def _power_cuts(copies: Copies) -> None:
    for _ in range(3):
        copies.machine.kill()
        copies.machine.chip.stop()
        copies.machine.chip.start()
        copies.machine.up()
        copies.machine.wait_state("active")
    _not_suspected(copies)


def _cloud_restarts(copies: Copies) -> None:
    for kill in (True, False, True):
        if kill and copies.cloud.process is not None:
            copies.cloud.process.kill()
        else:
            copies.cloud.down()
        copies.cloud.up()
        assert copies.session(copies.machine) == "active"
    _not_suspected(copies)


ROWS: dict[str, Callable[[Copies], None]] = {
    "copy and original run from the copy on": _interleaved,
    "the copy starts late": _late_copy,
    "the copy hides its token": _hidden_token,
    "policy suspend-both": _both_suspended,
    "the other machine is kept, and then corrected": _kept_the_other,
    "one machine, put back": _restored,
    "one machine, put back every night": _restored_every_night,
    "one machine, its token is lost": _lost_token,
    "one machine, power cuts": _power_cuts,
    "one machine, the cloud is killed and restarted": _cloud_restarts,
}


def _take(name: str, directory: Path, cloud: Cloud, chip: SoftTpm) -> str:
    """Take a row. Returns what is wrong, or an empty text."""
    try:
        with activated(directory, cloud, chip) as copies:
            ROWS[name](copies)
    except (AssertionError, StepFailed) as error:
        return f"{name}: {error}"
    return ""


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every row. A row that stops is a finding, and the other rows continue."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-clones-") as folder:
        directory = Path(folder)
        installation = new_cloud(directory / "installation").init()
        for number, name in enumerate(ROWS):
            if options.only not in name:
                continue
            begun = time.monotonic()
            place = directory / str(number)
            place.mkdir()
            cloud = new_cloud(place).copy_from(installation)
            chip = SoftTpm(place / "chip", ca=directory / "ca", bus=shared_bus())
            with ended(cloud):
                cloud.up()
                found = _take(name, place, cloud, chip)
            figures[name] = found or "as expected"
            findings += [found] if found else []
            say(f"{time.monotonic() - begun:.1f} s  {name}: {found or 'as expected'}")
    return Outcome(figures, tuple(findings))
