"""Kills Breakwater before and after each of its fault points, on each database, alone and beside a replica.

`tests/system/test_issuer_walk.py` has one kill at each fault point of each scenario, each scenario in one mode.
"""

import argparse
import tempfile
import traceback
from pathlib import Path

from cloud.storage import PostgresLocation
from lab.cloud import Cloud
from lab.postgres import cluster, postgres_copy
from tests.drills.frame import Outcome, Say
from tests.system.support.fault_points import points_in_code
from tests.system.support.harness import new_cloud
from tests.system.support.issuer_walk.scenarios import (
    MODES,
    SCENARIOS,
    STAGES,
    Case,
    Group,
    all_groups,
    walk_group,
)
from tests.system.support.issuer_walk.site import Mode, Site
from tests.system.support.lanes import run_lanes

USUAL_TIME = "6 min"
MINUTES_MAX = 30.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of modes and scenarios and the number of lanes."""
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--mode", action="append", choices=MODES, help="walk in this mode only (may be repeated)")
    parser.add_argument("--scenario", action="append", choices=names, help="walk this scenario only (may be repeated)")
    parser.add_argument("--lanes", type=int, default=2, help="scenarios at a time (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Walk the groups. Each failed group is a finding."""
    modes = options.mode or MODES
    groups = [
        group
        for group in all_groups()
        if group.mode in modes and (not options.scenario or group.scenario.name in options.scenario)
    ]
    cases = [case for group in groups for case in group.cases]
    taken: dict[Case, float] = {}
    findings: list[str] = []

    with tempfile.TemporaryDirectory(prefix="cascade-issuer-walk-") as folder:
        scratch = Path(folder)
        installation = new_cloud(scratch / "installation").init()
        # PostgreSQL ends with the thread that starts it, so the main thread starts it.
        pristine = None if modes == ["sqlite"] else _pristine(installation)

        def work(lane: int, group: Group) -> None:
            try:
                directory = scratch / f"{lane}-{groups.index(group)}"
                taken.update(walk_group(_begin(group.mode, directory, installation, pristine), group))
            except BaseException as error:  # noqa: BLE001  the error is a finding, and the other groups continue
                findings.append("".join([f"{group}\n", *traceback.format_exception(error, limit=-2)]))
            say(f"{len(taken)} of {len(cases)} kills survived, {len(findings)} groups not: {group}")

        run_lanes(range(options.lanes), groups, work)

    for mode in modes if not options.scenario else ():
        wanted = {
            (point, stage)
            for point in points_in_code("breakwater")
            for stage in STAGES
            if mode != "two replicas" or any(point in each.points and each.dies == "server" for each in SCENARIOS)
        }
        walked = {(case.point, case.stage) for case in taken if case.mode == mode}
        findings += [f"not walked on {mode}: {stage} {point}" for point, stage in sorted(wanted - walked)]
    figures = {
        "fault points": len({case.point for case in taken}),
        "kills": len(cases),
        "kills survived": len(taken),
        "slowest case, seconds": max(taken.values(), default=0.0),
    }
    return Outcome(figures, tuple(findings))


def _pristine(installation: Cloud) -> PostgresLocation:
    """The installation's database on PostgreSQL. Every site has a copy of it."""
    return postgres_copy("breakwater", installation.directory / "breakwater" / "database.sqlite")


def _begin(mode: Mode, directory: Path, installation: Cloud, pristine: PostgresLocation | None) -> Site:
    """A copy of the installation and its database, with no process."""
    location = None if mode == "sqlite" or pristine is None else cluster().create(pristine.name)
    return Site(mode, directory, installation, location)
