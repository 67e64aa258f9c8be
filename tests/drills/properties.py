"""No sequence of faults, clock moves, restored files and valid documents leads to a wrong licence: 10,000 examples.

The examples run the real code of the decision (`tests/node/licensing/decision.py`): start, contact, confirmation, rekey,
acceptance, floors, trusted time, store and verdict. `make test` tries 24 of them. A step takes 5 ms of a processor.
"""

import argparse
import io
import logging
import os
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.drills.frame import Figure, Outcome, Say

USUAL_TIME = "20 min"
MINUTES_MAX = 120.0
PIECE = 250
"""Examples of one piece. Each piece has its own seed."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of examples, their length and the seed."""
    parser.add_argument("--examples", type=int, default=10_000, help="number of examples (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="longest example (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--first", action="store_true", help="show an example that fails as found, without shortening")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first piece (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Try the examples in pieces."""
    sizes = [min(PIECE, options.examples - done) for done in range(0, options.examples, PIECE)]
    findings: list[str] = []
    done: Counter[str] = Counter()
    tried = 0
    with ProcessPoolExecutor(options.processes) as pool:
        pieces = [
            pool.submit(_piece, options.seed + at, size, options.steps, first=options.first)
            for at, size in enumerate(sizes)
        ]
        for piece, size in zip(pieces, sizes, strict=True):
            found, counted = piece.result()
            done += counted
            tried += size
            if found:
                findings.append(found)
                say(found)
            say(f"{tried} of {options.examples} examples, {len(findings)} findings")
    figures: dict[str, Figure] = {"examples": tried, "steps of an example": options.steps, **dict(sorted(done.items()))}
    return Outcome(figures, tuple(findings))


def _piece(number: int, examples: int, steps: int, *, first: bool) -> tuple[str, Counter[str]]:
    """Try one piece. Returns the example that fails, or "", and the counts of what was done."""
    from tests.node.licensing.decision import Decision  # here: the pool's processes import it once each

    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate] if first else tuple(Phase),
        suppress_health_check=list(HealthCheck),
    )
    Decision.done.clear()
    logging.disable()  # the agent reports every fault that an example makes
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run_state_machine_as_test(seed(number)(Decision), settings=limits)
    except Exception as error:  # noqa: BLE001 (every failure of an example is a finding)
        return f"seed {number}: {_shown(error)}\n{printed.getvalue()}", Counter(Decision.done)
    return "", Counter(Decision.done)


def _shown(error: BaseException) -> str:
    """An error with its place and its example; of a group each one."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(map(_shown, error.exceptions))
    place = "".join(traceback.format_tb(error.__traceback__, limit=-1))
    return "\n".join((f"{type(error).__name__}: {error}", place, *getattr(error, "__notes__", ())))
