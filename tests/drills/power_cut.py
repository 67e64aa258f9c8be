"""The power of a whole machine fails at random moments of activation, refresh, floor update and upgrade.

The machine is a Debian in QEMU with systemd, the kernel's TPM, and the agent from its package. A cut kills QEMU and the
TPM's process (SIGKILL). The disk has a volatile cache (`lab.cut_disk`): writes that the guest has not flushed are lost,
kept, or mixed and torn. The machine then boots, half of the time without a network, and must come back by itself.
The cloud runs on this machine and is not cut. Needs root.
"""

import argparse
import itertools
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from lab.guest_image import missing_packages
from lab.packaged_guest import packaged_image
from lab.processes import StepFailed
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.package_versions import with_version
from tests.system.support.power_cut_results import PHASES, Result
from tests.system.support.power_cuts import CutMachine, Supply
from tests.system.support.whole_machines import Wrong

USUAL_TIME = "15 min"
MINUTES_MAX = 240.0
REPOSITORY = Path(__file__).parent.parent.parent
VERSIONS = ("1.0", "2.0")
MACHINES_MAX = 5
"""A machine that has not come back is replaced. After so many the drill ends."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of cuts, the seed, the package, and where images are kept."""
    parser.add_argument("--cuts", type=int, default=8, help="how often the power fails (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments; 0 takes one from the clock")
    parser.add_argument("--phase", choices=PHASES, action="append", help="this phase only (may be repeated)")
    parser.add_argument(
        "--package", type=Path, help="the deb for Debian 12 (default: that in dist/, of `make packages`)"
    )
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "build/roots", help="where images are kept")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Cut the power in each phase in a random order. What is wrong after a cut is a finding, and costs the machine."""
    if os.geteuid() != 0:
        raise CannotRun("debootstrap needs root. Run it as root")
    if missing := missing_packages():
        raise CannotRun(f"programs are missing. Run `apt-get install --no-install-recommends {' '.join(missing)}`")
    found = sorted((REPOSITORY / "dist").glob("cascadia_*~deb12_*.deb"))
    package = options.package or (found[-1] if found else None)
    if package is None:
        raise CannotRun("there is no package of the agent. Run `make packages`, or name one with --package")
    seed = options.seed or int(time.time())
    say(f"seed {seed}")
    choose = random.Random(seed)
    phases = list(itertools.islice(itertools.cycle(options.phase or PHASES), options.cuts))
    choose.shuffle(phases)
    image = packaged_image(options.cache.resolve(), "bookworm")
    results: list[Result] = []
    findings: list[str] = []
    # Below /tmp: the path of a unix socket is short.
    with (
        tempfile.TemporaryDirectory(prefix="power-", dir="/tmp", ignore_cleanup_errors=True) as name,
        ExitStack() as stack,
    ):
        debs = [with_version(package, version, Path(name)) for version in VERSIONS]
        supply = Supply(Path(name), image, debs, choose, say)
        stack.enter_context(supply)
        machine = None
        for number, phase in enumerate(phases, 1):
            try:
                machine = machine or supply.machine()
                result = machine.cut(phase)
                results.append(result)
                say(f"{number}/{len(phases)} {result}")
            except (Wrong, StepFailed) as error:
                findings.append(f"cut {number}, {phase}: {error}")
                say(f"{number}/{len(phases)} {phase}: WRONG {findings[-1]}")
                if machine is not None:
                    say(machine.told())
                    machine.close()
                machine = None
                if supply.machines == MACHINES_MAX:
                    break
        if machine is not None:
            findings += _end(machine)
            machine.close()
        return Outcome(_figures(seed, results, supply), tuple(findings))


def _end(machine: CutMachine) -> list[str]:
    """What is wrong when all is over."""
    try:
        machine.check_end()
    except (Wrong, StepFailed) as error:
        return [f"at the end: {error}"]
    return []


def _figures(seed: int, results: list[Result], supply: Supply) -> dict[str, Figure]:
    """The counts of the cuts."""
    figures: dict[str, Figure] = {"seed": seed, "cuts after which all was right": len(results)}
    for phase in PHASES:
        of_phase = [each for each in results if each.phase == phase]
        came = Counter(each.found for each in of_phase)
        figures[phase] = f"{len(of_phase)}: " + ", ".join(f"{count} {what}" for what, count in came.most_common())
    figures["cuts during the step"] = sum(each.within for each in results)
    figures["boots without a network"] = sum(each.offline for each in results)
    figures["cuts that lost writes"] = sum(each.disk.lost > 0 for each in results)
    figures["writes lost"] = sum(each.disk.lost for each in results)
    figures["writes torn"] = sum(each.disk.torn for each in results)
    figures["machines"] = supply.machines
    if results:
        figures["boot, seconds (median)"] = statistics.median(each.boot_seconds for each in results)
        figures["power to a judged licence, seconds (median)"] = statistics.median(each.seconds for each in results)
    return figures
