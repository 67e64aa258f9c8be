"""Every attack of docs/threat-model.md that needs real programs: defence, state, exit code, one row each.

`tests/system/support/attacks/table.py` has the rows. `make test` takes one or two rows of most kinds.
"""

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from lab.processes import ended
from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.attacks.site import Site
from tests.system.support.attacks.table import ATTACKS, KINDS, Attack
from tests.system.support.attacks.take import taken
from tests.system.support.harness import new_cloud

USUAL_TIME = "12 min"
MINUTES_MAX = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of rows."""
    parser.add_argument("--kind", action="append", choices=KINDS, help="take the rows of this kind (may be repeated)")
    parser.add_argument("--only", default="", help="take the rows whose name has this text (default: all)")
    parser.add_argument("--list", action="store_true", help="print the table, and take no row")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take the rows. A wrong row is a finding, and the other rows continue."""
    attacks = tuple(each for each in ATTACKS if _chosen(each, options))
    if options.list:
        for attack in attacks:
            say(str(attack))
        return Outcome({"rows": len(attacks)})
    findings: list[str] = []
    seconds: defaultdict[str, float] = defaultdict(float)
    begun = time.monotonic()
    # Below /tmp: the path of a unix socket is short.
    with tempfile.TemporaryDirectory(prefix="attacks-", dir="/tmp") as folder:
        directory = Path(folder)
        cloud = new_cloud(directory / "site").init()
        with ended(cloud):
            cloud.up()
            site = Site(directory, cloud, partial(_chip, directory), say=say)
            for attack, found in taken(attacks, site):
                seconds[attack.kind] += time.monotonic() - begun
                say(f"{time.monotonic() - begun:5.1f} s  {'WRONG' if found else 'right'}  {attack}")
                begun = time.monotonic()
                if found:
                    findings.append(f"{attack.threat} {attack.kind}, {attack.name}: {found}")
                    say(f"FOUND {findings[-1]}")
    rows = Counter(attack.kind for attack in attacks)
    figures: dict[str, Figure] = {"rows": len(attacks), "wrong": len(findings)}
    figures |= {f"{kind}, rows": count for kind, count in rows.items()}
    figures |= {f"{kind}, seconds": seconds[kind] for kind in rows}
    return Outcome(figures, tuple(findings))


def _chosen(attack: Attack, options: argparse.Namespace) -> bool:
    return options.only in attack.name and (not options.kind or attack.kind in options.kind)


def _chip(directory: Path, place: Path, number: int) -> SoftTpm:
    """A stopped copy of the chip of this number. The first call makes the chip."""
    made = SoftTpm(directory / f"chip-{number}", ca=directory / "maker", bus=shared_bus())
    return made.copy_to(place)
