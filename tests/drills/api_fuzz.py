"""Sends requests from the API documents as each kind of caller: no 5xx, and no undocumented answer.

Schemathesis makes valid and invalid requests for every operation of every listener of a running cloud, and of the
agent's socket. The seeds of a run are printed; `--seed` repeats it. `make api-fuzz` runs this drill.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.drills.frame import Outcome, Say
from tests.fuzz.agent import agent_listeners
from tests.fuzz.api import Report, exercise, refuse_other_methods
from tests.system.support.api_listeners import listeners_of
from tests.system.support.harness import new_cloud
from tests.system.support.routes import world_of

USUAL_TIME = "10 min"
MINUTES_MAX = 600.0

EXAMPLES = 10
"""The requests for each operation and mode in one round."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the time of the run and the first seed."""
    parser.add_argument("--minutes", type=float, default=10.0, help="time of the run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round (default: the time)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Send rounds of requests to all operations until the time is over, at least one. Each round has the next seed."""
    report, rounds = Report(), 0
    seed = options.seed or int(time.time())
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-api-")))
        installation = new_cloud(directory / "installation").init()
        world = stack.enter_context(world_of(installation, directory))
        listeners = (
            *stack.enter_context(listeners_of(world, directory)),
            *stack.enter_context(agent_listeners(directory)),
        )
        refuse_other_methods(listeners, report)
        ends = time.monotonic() + options.minutes * 60
        while rounds == 0 or time.monotonic() < ends:
            exercise(listeners, report, examples=EXAMPLES, random_seed=seed + rounds, until=ends)
            rounds += 1
            say(
                f"round {rounds} (seed {seed + rounds - 1}): {report.requests} requests, {len(report.findings)} findings"
            )
    figures = {"requests": report.requests, "rounds": rounds, "first seed": seed, "codes seen": len(report.codes)}
    return Outcome({**figures, **_by_status(report)}, tuple(report.findings.values()))


def _by_status(report: Report) -> dict[str, int]:
    """The number of answers for each status, over all listeners and callers."""
    found: dict[str, int] = {}
    for answer, number in report.answers.items():
        name = f"answers {answer.rpartition(' ')[2]}"
        found[name] = found.get(name, 0) + number
    return dict(sorted(found.items()))
