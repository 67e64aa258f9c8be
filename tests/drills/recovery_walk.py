"""Random recoveries on one Fabric, in any order: one node, one seat, one generation in force, no lease beyond the overlap.

`make test` takes one short walk (`tests/cloud/fabric/recovery_walk.py` has the steps and the invariants). A step takes
about 25 ms of a processor.
"""

import argparse
import asyncio
import logging
import tempfile
from collections import Counter
from pathlib import Path

from cloud.crypto.keyfile import write_secret
from tests.cloud.breakwater.support import PASSPHRASE, Clock
from tests.cloud.fabric.conftest import initialise_home
from tests.cloud.fabric.recovery_walk import Walk
from tests.cloud.fabric.support import copied, world_at
from tests.drills.frame import Figure, Outcome, Say

USUAL_TIME = "10 min"
MINUTES_MAX = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of walks, their length and the first seed."""
    parser.add_argument("--walks", type=int, default=200, help="number of walks (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="steps of a walk (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first walk (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take the walks. A walk that breaks an invariant is a finding with its seed, and the others continue."""
    logging.disable()  # the services report every refusal that a walk makes
    findings: list[str] = []
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="cascade-recovery-walk-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        write_secret(home / "passphrase", PASSPHRASE)
        asyncio.run(initialise_home(home))
        for seed in range(options.seed, options.seed + options.walks):
            place = Path(folder) / str(seed)
            place.mkdir()
            try:
                done += asyncio.run(_walk(home, place, seed, options.steps))
            except AssertionError as error:
                findings.append(f"seed {seed}: {error}")
                say(findings[-1])
            if (seed - options.seed) % 10 == 9:
                say(f"{seed - options.seed + 1} of {options.walks} walks, {len(findings)} findings")
    figures: dict[str, Figure] = {
        "walks": options.walks,
        "steps of a walk": options.steps,
        **dict(sorted(done.items())),
    }
    return Outcome(figures, tuple(findings))


async def _walk(home: Path, place: Path, seed: int, steps: int) -> Counter[str]:
    async with world_at(home, copied(home, place), Clock()) as world:
        return await Walk(world, seed).run(steps)
