"""A hostile node, code, secret, token and stranger at full speed: their effect on honest callers and on the databases.

Each attack has its own copy of an installation. The rows and bytes are counted while the cloud is down, before and after.
`tests/system/test_admission.py` has the same table for half a second each.
"""

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from cloud.breakwater.settings import BreakwaterSettings
from cloud.fabric.settings import FabricSettings
from cloud.process.settings import load_settings
from cloud.storage import Location, Statement
from cloud.storage.database import open_database
from lab.cloud import Cloud
from lab.postgres import cluster
from lab.processes import ended
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.greedy import GREEDY, Scene, attacked
from tests.system.support.harness import new_cloud

USUAL_TIME = "15 min"
MINUTES_MAX = 30.0
ENGINES = ("sqlite", "postgresql")
ROWS_MAX = {"node": 900, "polls": 100, "code": 900, "secret": 300, "token": 60_000, "stranger": 900}
"""Rows of both databases that a minute of an attack may leave, beside those of the honest callers. A token may make 16,000
objects in a row, with two or three rows each."""
HONEST_ROWS = 20
"""Rows that the honest callers leave in a second, at most."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each attack (default: %(default)s)")
    parser.add_argument("--attack", choices=sorted(GREEDY), help="run this attack only")
    parser.add_argument("--engine", choices=ENGINES, help="run on this engine only")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    for engine in [options.engine] if options.engine else ENGINES:
        for name in ["", options.attack] if options.attack else ["", *GREEDY]:
            with tempfile.TemporaryDirectory() as scratch:
                _run_one(Path(scratch), engine, name, options.seconds, figures, findings)
            label = f"{engine}, {name or 'no attack'}"
            say(f"{label}: " + "; ".join(f"{key}: {text}" for key, text in figures.items() if key.startswith(label)))
    return Outcome(figures, tuple(findings))


def _run_one(
    scratch: Path, engine: str, name: str, seconds: float, figures: dict[str, Figure], findings: list[str]
) -> None:
    label = f"{engine}, {name or 'no attack'}"
    with ExitStack() as stack:
        cloud = new_cloud(scratch)
        if engine == "postgresql":
            made = cluster().create(), cluster().create()
            for location in made:
                stack.callback(cluster().drop, location)
            names = ("--breakwater-database", "--fabric-database")
            uris = [f"postgresql://{each.user}@/{each.name}?host={each.host}" for each in made]
            cloud.init(*(part for pair in zip(names, uris, strict=True) for part in pair))
        else:
            cloud.init()
        stack.enter_context(ended(cloud))
        cloud.up()
        scene = Scene(cloud, scratch)
        cloud.down()
        before = asyncio.run(_sizes(cloud))
        cloud.up()
        seen, noticed = attacked(scene, name, seconds)
        cloud.down()
        after = asyncio.run(_sizes(cloud))
    rows, size = after[0] - before[0], after[1] - before[1]
    refused = noticed.refused
    figures[f"{label}: honest requests"] = sum(noticed.answers.values())
    figures[f"{label}: honest requests refused"] = sum(refused.values())
    slowest = max(noticed.slowest, key=lambda kind: noticed.slowest[kind])
    figures[f"{label}: slowest"] = f"{slowest} {noticed.slowest[slowest] * 1000:.0f} ms"
    answers = {str(status): count for status, count in sorted(seen.items())}
    figures[f"{label}: hostile answers by status"] = " ".join(f"{key}:{count}" for key, count in answers.items())
    figures[f"{label}: databases gained"] = f"{rows} rows, {size / 1e6:.1f} MB"
    findings += [f"{label}: honest {what}: {count} times" for what, count in refused.items()]
    if rows > (ROWS_MAX.get(name, 0) + HONEST_ROWS * 60) * max(1.0, seconds / 60):
        findings.append(f"{label}: the databases gained {rows} rows")


async def _sizes(cloud: Cloud) -> tuple[int, int]:
    """The rows and bytes of both databases."""
    kinds = (("breakwater", BreakwaterSettings), ("fabric", FabricSettings))
    rows = size = 0
    for service, kind in kinds:
        location = load_settings(cloud.directory / service / "settings.toml", kind).database_location()
        counted = await _size(service, location)
        rows, size = rows + counted[0], size + counted[1]
    return rows, size


async def _size(service: str, location: Location) -> tuple[int, int]:
    async with open_database(service, location) as engine:
        sqlite = isinstance(location, Path)
        names = await engine.fetch(
            Statement("SELECT name FROM sqlite_master WHERE type = 'table'")
            if sqlite
            else Statement("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
        )
        rows = 0
        for each in names:
            (counted,) = await engine.fetch(Statement(f'SELECT count(*) AS n FROM "{each["name"]}"'))  # noqa: S608
            rows += int(counted["n"])
        if isinstance(location, Path):
            return rows, location.stat().st_size
        (size,) = await engine.fetch(Statement("SELECT pg_database_size(current_database()) AS n"))
        return rows, int(size["n"])
