"""Chains of kills, the fault walk of `make test`: each retry meets the next kill, and the last retry succeeds.

A chain has a site, and kills of one scenario in the order in which a retry passes their fault points. So it needs one
prepared situation, and the checks of the end once. `make drills PART=fault-walk` makes each kill on a new site, before
and after its point, and checks after each.
"""

import time
from itertools import cycle

import msgspec

from tests.system.support.fault_walk.scenarios import SCENARIOS, STAGES, Case, Scenario, Situation
from tests.system.support.fault_walk.site import Interrupted, Lane, Site

FROM_ACTIVE: frozenset[Situation] = frozenset(
    {
        "active",
        "revoked",
        "overdue beside another",
        "rekeyed",
        "restored cloud",
        "lost database",
        "cleared",
        "approved recovery",
    }
)
"""The situations whose preparation begins with "active". That of the others begins with "new"."""


class Chain(msgspec.Struct, frozen=True):
    """Kills of one scenario that follow one another on one site."""

    scenario: Scenario
    cases: tuple[Case, ...]

    @property
    def family(self) -> str:
        """The name of the situations that share the costly part of their preparation."""
        return "active" if self.scenario.situation in FROM_ACTIVE else "new"

    def __str__(self) -> str:
        return f"{self.scenario.name}: killed {', '.join(f'{case.stage} {case.point}' for case in self.cases)}"


def kept_chains() -> list[Chain]:
    """The chains of `make test`: one kill at each fault point of each scenario, alternately before and after it."""
    stages = cycle(STAGES)
    return [
        Chain(scenario, tuple(Case(scenario, point, next(stages)) for point in points))
        for scenario in SCENARIOS
        for points in scenario.chains
    ]


def walk_chain(lane: Lane, chain: Chain) -> float:
    """Kill and retry until all kills are made, retry once more, check. An error has a note with the last kill.

    Returns the seconds from the last kill to the end of the checks. Raises AssertionError.
    """
    site = lane.site(chain.scenario.situation)
    case = chain.cases[0]
    try:
        for case in chain.cases:
            _kill(site, case)
        died_at = time.monotonic()
        chain.scenario.attempt(site)
        site.check_end(renewed=chain.scenario.renewed)
        return time.monotonic() - died_at
    except Interrupted as error:
        raise AssertionError(f"after the kill {case}: {error}") from error
    except BaseException as error:
        error.add_note(str(case))
        raise
    finally:
        site.end()


def _kill(site: Site, case: Case) -> None:
    """Run the scenario until a process dies at the fault point. Raises AssertionError when no process dies there."""
    # A process that already runs has no plan.
    if case.point.startswith("node."):
        site.machine.kill()
    else:
        site.cloud.kill()
    site.arm(case.point, case.stage)
    interruption = ""
    try:
        case.scenario.attempt(site)
    except Interrupted as error:
        interruption = str(error)
    assert site.died(case.point, case.stage), f"no process died at this fault point: {interruption}"
    site.victim = None
