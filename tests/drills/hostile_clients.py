"""Hostile clients without a certificate at full size, one process for each attack, and SIGTERM under each.

The attacks are those of `tests/system/test_hostile_clients.py`, larger. An honest client at another address asks all
the time. The drill reports memory, file descriptors and log lines for each attack, and the seconds of the stop.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from lab.cloud import Cloud
from lab.processes import StepFailed, ended
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import Plan, new_cloud
from tests.system.support.hostile import ATTACKS, Bystander, Cost, Crowd, cost_of

USUAL_TIME = "4 min"
MINUTES_MAX = 20.0
DESCRIPTORS = 1024
MEBIBYTES_MAX = 48
LINES_MAX = 12
"""One line a minute says that there are too many connections. The others are those of the background tasks."""
STOP_SECONDS = 3.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=5, help="scale of the attacks (default: %(default)s)")
    parser.add_argument("--attack", choices=sorted(ATTACKS), help="run this attack only")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        made = new_cloud(Path(scratch) / "made").init()
        # The hostile callers and the bystander share an address, and this drill is about connections.
        for service in ("breakwater", "fabric"):
            settings = made.directory / service / "settings.toml"
            settings.write_text(f"{settings.read_text()}\n[admission]\nfactor = 1000\n")
        for name in [options.attack] if options.attack else ATTACKS:
            cloud = new_cloud(Path(scratch) / name).copy_from(made)
            with ended(cloud):
                cloud.up(Plan(descriptors=DESCRIPTORS))
                cost, answered, stop = asyncio.run(_attacked(cloud, name, options.size))
            figures[name] = (
                f"{cost.mebibytes:+.1f} MiB, {cost.descriptors:+d} descriptors, {cost.lines} log lines, "
                f"{answered} answers to the bystander, stopped in {stop:.1f} s"
            )
            say(f"{name}: {figures[name]}")
            bounds = (
                (cost.mebibytes <= MEBIBYTES_MAX, f"{cost.mebibytes:.0f} MiB"),
                (cost.descriptors <= DESCRIPTORS, f"{cost.descriptors} descriptors"),
                (cost.lines <= LINES_MAX, f"{cost.lines} log lines"),
                (stop <= STOP_SECONDS, f"{stop:.1f} s for the stop"),
            )
            findings += [f"{name}: {text}" for good, text in bounds if not good]
    return Outcome(figures, tuple(findings))


async def _attacked(cloud: Cloud, name: str, size: int) -> tuple[Cost, int, float]:
    """Return the cost of the attack, the answers to the bystander and the seconds of the stop."""
    process, bystander = cloud.process, Bystander(cloud)
    if process is None:
        raise StepFailed("the cloud is not running")
    await bystander.ask()
    before = cost_of(process.pid, process.log)
    async with Crowd(cloud) as crowd:
        attack = asyncio.ensure_future(ATTACKS[name](crowd, size))
        await bystander.ask_during(attack)
        await bystander.ask()
        cost = cost_of(process.pid, process.log).since(before)
        begun = time.monotonic()
        await asyncio.to_thread(process.stop)
        stop = time.monotonic() - begun
    await bystander.close()
    return cost, bystander.answered, stop
