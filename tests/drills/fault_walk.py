"""Kills cloud or agent before and after each fault point of each scenario, from activation to revocation.

`tests/system/test_fault_walk.py` has one kill at each fault point of each scenario.
"""

import argparse
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path

from lab.tpm import SoftTpm, shared_bus
from tests.drills.frame import Outcome, Say
from tests.system.support.fault_points import points_in_code
from tests.system.support.fault_walk.scenarios import (
    PREPARE,
    RETURN_SECONDS_MAX,
    SCENARIOS,
    STAGES,
    Case,
    all_cases,
    walk,
)
from tests.system.support.fault_walk.site import Lane
from tests.system.support.lanes import run_lanes

USUAL_TIME = "5 min"
MINUTES_MAX = 30.0

GROUP_CASES = 6
"""The cases of one situation that a lane takes at once. Preparing the situation costs as much as a case."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of scenarios and the number of lanes."""
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="walk this scenario only (may be repeated)")
    parser.add_argument("--lanes", type=int, default=3, help="scenarios at a time (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Walk the cases. Each failed case is a finding."""
    cases = [case for case in all_cases() if not options.scenario or case.scenario.name in options.scenario]
    by_scenario = [[case for case in cases if case.scenario == scenario] for scenario in SCENARIOS]
    groups = [group[at : at + GROUP_CASES] for group in by_scenario for at in range(0, len(group), GROUP_CASES)]
    returns: dict[Case, float] = {}
    findings: list[str] = []

    def work(lane: Lane, group: list[Case]) -> None:
        for case in group:
            try:
                returns[case] = walk(lane, case)
            except BaseException as error:  # noqa: BLE001  the error is a finding, and the other cases continue
                findings.append(f"{case}\n{''.join(traceback.format_exception(error, limit=-2))}")
            say(f"{len(returns)} of {len(cases)} kills survived, {len(findings)} not: {case}")

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-fault-walk-")))
        chips = [SoftTpm(scratch / name, ca=scratch / "maker", bus=shared_bus()) for name in ("first", "second")]
        for chip in chips:
            stack.enter_context(chip)
        lanes = [Lane(scratch / f"{number}", chips[number % 2], PREPARE) for number in range(options.lanes)]
        run_lanes(lanes, groups, work, lambda lane, group: int(not lane.has(group[0].scenario.situation)))

    slowest = max(returns.values(), default=0.0)
    if slowest > RETURN_SECONDS_MAX:
        findings.append(f"the slowest return took {slowest:.1f} s, {RETURN_SECONDS_MAX} s are allowed")
    walked = {(case.point, case.stage) for case in returns}
    if not options.scenario:
        wanted = {(point, stage) for point in points_in_code("node", "fabric") for stage in STAGES}
        findings += [f"not walked: {stage} {point}" for point, stage in sorted(wanted - walked)]
    figures = {
        "fault points": len({point for point, _ in walked}),
        "kills": len(cases),
        "kills survived": len(returns),
        "slowest return, seconds": slowest,
    }
    return Outcome(figures, tuple(findings))
