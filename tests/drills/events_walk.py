"""Events under load: a transaction that stays open, killed and hanging replicas, many events; on both databases.

The quick forms are in `tests/cloud/events`: `test_walk.py` kills a producer at each fault point.
"""

import argparse
import asyncio
import os
import random
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cloud.storage import Location
from cloud.storage.database import open_database
from lab.forks import ForkServer
from lab.postgres import cluster, database_location
from lab.processes import Process, StepFailed
from protocol.faults import Stage
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.events_walk import producing
from tests.system.support.events_walk.producing import SERVICE, Kill, Order
from tests.system.support.events_walk.reading import Found, Reader

USUAL_TIME = "5 min"
MINUTES_MAX = 30.0
STALL_SECONDS_MAX = 6.0
"""docs/events.md: 5 s for a process that hangs, and 1 s until another process looks."""
STAGES: tuple[Stage, ...] = ("before", "after")
OBJECTS = 50
RESTARTS = 3
"""Replicas that are killed one after the other in each case."""
PASSAGE_MAX = 60
HANG_SECONDS = 10.0

Program = tuple[Callable[..., object], Order | None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the databases, the time of the open transaction and the number of events."""
    parser.add_argument("--engine", action="append", choices=("sqlite", "postgresql"), help="only this one")
    parser.add_argument("--hold-seconds", type=float, default=30.0, help="(default: %(default)s)")
    parser.add_argument("--changes", type=int, default=10_000, help="events of the last step (default: %(default)s)")


class Walk:
    """The steps over one database engine. Each step has a new database."""

    def __init__(self, engine: str, folder: Path, forks: ForkServer, say: Say) -> None:
        self._engine = engine
        self._folder = folder
        self._forks = forks
        self._say = say
        self._number = 0
        self.figures: dict[str, Figure] = {}
        self.findings: list[str] = []

    @property
    def is_file(self) -> bool:
        """SQLite has one process."""
        return self._engine == "sqlite"

    def held(self, seconds: float) -> None:
        """Keep a transaction with an event open under load. Beside it, on PostgreSQL, another replica works."""
        orders = [Order(OBJECTS, seconds + 3, hold_seconds=seconds)]
        if not self.is_file:
            orders.append(Order(OBJECTS, seconds + 3))
        self._step("held", [[(producing.replica, order)] for order in orders])

    def killed(self, point: str, stage: Stage) -> None:
        """Kill replicas at a fault point, each at another passage, while on PostgreSQL another replica works."""
        kills = [Kill(point, stage, random.randint(1, PASSAGE_MAX)) for _ in range(RESTARTS)]
        lane: list[Program] = [(producing.replica, Order(OBJECTS, 20, 4_000, kill=kill)) for kill in kills]
        lanes = [[*lane, (producing.replica, Order(OBJECTS, 1))]]
        if not self.is_file:
            lanes.append([(producing.replica, Order(OBJECTS, 5))])
        self._step(f"killed {stage} {point}", lanes)

    def hanging(self) -> None:
        """Stop a process in the middle of giving positions, while another replica works."""
        self._step("hanging", [[(producing.replica, Order(OBJECTS, 12))], [(producing.hanging, None)]])

    def many(self, changes: int) -> None:
        """Commit many events as fast as possible."""
        count = 1 if self.is_file else 2
        order = Order(1_000, 600, changes // count)
        found, seconds = self._step("many", [[(producing.replica, order)] for _ in range(count)])
        self.figures[f"{self._engine}: events a second through outbox and feed"] = found.events / seconds

    def _step(self, name: str, lanes: Sequence[Sequence[Program]]) -> tuple[Found, float]:
        """Run lanes of programs beside each other, each program of a lane after the other, with a reader."""
        self._number += 1
        folder = self._folder / f"{self._engine}-{self._number}"
        folder.mkdir()
        location = database_location(self._engine, SERVICE, folder)
        found, seconds = asyncio.run(self._read(location, folder, lanes))
        self._say(f"{self._engine}, {name}: {found.events} events, longest delay {found.longest:.2f} s")
        self.findings += [f"{self._engine}, {name}: {wrong}" for wrong in found.wrong]
        if found.longest > STALL_SECONDS_MAX:
            self.findings.append(f"{self._engine}, {name}: the feed was {found.longest:.1f} s behind a commit")
        self.figures[f"{self._engine}, {name}: events"] = found.events
        self.figures[f"{self._engine}, {name}: median delay, ms"] = found.median * 1000
        self.figures[f"{self._engine}, {name}: longest delay, ms"] = found.longest * 1000
        return found, seconds

    async def _read(self, location: Location, folder: Path, lanes: Sequence[Sequence[Program]]) -> tuple[Found, float]:
        loop = asyncio.get_running_loop()
        began, done = loop.time(), asyncio.Event()
        async with open_database(SERVICE, location) as engine:
            reader = Reader(engine)
            following = asyncio.create_task(reader.follow(done))
            works = [asyncio.to_thread(self._lane, location, folder, number, lane) for number, lane in enumerate(lanes)]
            printed = await asyncio.gather(*works)
            seconds = loop.time() - began
            done.set()
            await following
            lines = [line for text in printed for line in text.splitlines()]
            found = await reader.check(line for line in lines if line.startswith("aud_") and " " in line)
            refused = [line for line in lines if line.startswith("failed")]
            if refused:
                self._say(f"{len(refused)} changes were refused, the first: {refused[0]}")
            return found, seconds

    def _lane(self, location: Location, folder: Path, number: int, lane: Sequence[Program]) -> str:
        printed = []
        for place, (program, order) in enumerate(lane):
            process = self._forks.call(folder, f"lane{number}-{place}", program, *_arguments(location, order))
            _wait(process, is_stopped=program is producing.hanging)
            printed.append(process.printed())
        return "".join(printed)


def _arguments(location: Location, order: Order | None) -> tuple[object, ...]:
    return (location,) if order is None else (location, order)


def _wait(process: Process, *, is_stopped: bool) -> None:
    """Wait for the end. A stopped process goes on long after the database has ended its transaction, and then fails."""
    if not is_stopped:
        process.wait(900)
        return
    with suppress(StepFailed):
        process.wait(HANG_SECONDS)
    os.kill(process.pid, signal.SIGCONT)
    if process.wait() == 0:
        raise StepFailed("a process that was stopped while it gave positions has committed them")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run all steps on each engine."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    cluster()  # PostgreSQL ends with the thread that starts it, so the main thread starts it
    forks = ForkServer("tests.system.support.events_walk.producing")
    with tempfile.TemporaryDirectory(prefix="cascade-events-walk-") as folder:
        for engine in options.engine or ("sqlite", "postgresql"):
            walk = Walk(engine, Path(folder), forks, say)
            walk.held(options.hold_seconds)
            points = ["events.event.add", *([] if walk.is_file else ["events.position.place"])]
            for point in points:
                for stage in STAGES:
                    walk.killed(point, stage)
            if not walk.is_file:
                walk.hanging()
            walk.many(options.changes)
            figures |= walk.figures
            findings += walk.findings
    return Outcome(figures, tuple(findings))
