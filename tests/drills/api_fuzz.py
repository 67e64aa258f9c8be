"""Sends requests from the API documents as each kind of caller: no 5xx, and no undocumented answer.

Schemathesis makes valid and invalid requests for every operation of every listener of a running cloud, and of the
agent's socket. Then it sends nasty values (`tests/fuzz/nasty_values.py`) at each place of a valid request. Both database
engines take turns, each for a part of the time. The seeds of a run are printed; `--seed` repeats it. `make api-fuzz`
runs this drill.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from lab.postgres import cluster
from tests.drills.frame import Outcome, Say
from tests.fuzz.agent import agent_listeners
from tests.fuzz.api import Report, exercise, refuse_other_methods
from tests.fuzz.nasty import exercise_nasty
from tests.system.support.api_listeners import listeners_of
from tests.system.support.harness import new_cloud
from tests.system.support.routes import world_of

USUAL_TIME = "10 min"
MINUTES_MAX = 600.0

ENGINES = ("sqlite", "postgresql")
EXAMPLES = 10
"""The requests for each operation and mode in one round."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the time of the run, the first seed and the engine."""
    parser.add_argument("--engine", choices=(*ENGINES, "both"), default="both", help="database engine (default: both)")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of the run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round (default: the time)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Send rounds of requests to all operations until the time is over, at least one on each engine."""
    report, rounds = Report(), 0
    seed = options.seed or int(time.time())
    engines = ENGINES if options.engine == "both" else (options.engine,)
    for engine in engines:
        ends = time.monotonic() + options.minutes * 60 / len(engines)
        rounds += _run(engine, report, seed + rounds, ends, say)
    figures = {"requests": report.requests, "rounds": rounds, "first seed": seed, "codes seen": len(report.codes)}
    return Outcome({**figures, **_by_status(report)}, tuple(report.findings.values()))


def _run(engine: str, report: Report, seed: int, ends: float, say: Say) -> int:
    """Send rounds of requests to a cloud on one engine until the time `ends`. Returns the number of rounds.

    A line of a traceback in the cloud's log is a finding.
    """
    rounds, said = 0, len(report.findings)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-api-")))
        installation = new_cloud(directory / "installation").init(*_databases(engine))
        world = stack.enter_context(world_of(installation, directory))
        cloud_listeners = stack.enter_context(listeners_of(world, directory))
        listeners = (*cloud_listeners, *stack.enter_context(agent_listeners(directory)))
        refuse_other_methods(listeners, report)
        while rounds == 0 or time.monotonic() < ends:
            half = time.monotonic() + max(0.0, ends - time.monotonic()) / 2
            exercise_nasty(cloud_listeners, report, random_seed=seed + rounds, until=half)
            exercise(listeners, report, examples=EXAMPLES, random_seed=seed + rounds, until=ends)
            rounds += 1
            for finding in list(report.findings.values())[said:]:
                say(finding)
            said = len(report.findings)
            say(
                f"{engine}, round {rounds} (seed {seed + rounds - 1}): {report.requests} requests, "
                f"{len(report.findings)} findings"
            )
        for log in directory.rglob("*.log"):
            for line in log.read_text(errors="replace").splitlines():
                if "Traceback" in line:
                    report.findings.setdefault(f"{engine} traceback {line[100:220]}", f"traceback in the log: {line}")
    return rounds


def _databases(engine: str) -> tuple[str, ...]:
    """The options of `cascade init` for an installation on an engine."""
    if engine == "sqlite":
        return ()
    options: list[str] = []
    for service in ("fabric", "breakwater"):
        location = cluster().create()
        options += [f"--{service}-database", f"postgresql://{location.user}@/{location.name}?host={location.host}"]
    return tuple(options)


def _by_status(report: Report) -> dict[str, int]:
    """The number of answers for each status, over all listeners and callers."""
    found: dict[str, int] = {}
    for answer, number in report.answers.items():
        name = f"answers {answer.rpartition(' ')[2]}"
        found[name] = found.get(name, 0) + number
    return dict(sorted(found.items()))
