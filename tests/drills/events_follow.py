"""Followers of events under load: killed at random, PostgreSQL restarted, a producer restored; on both databases.

The quick forms are `tests/cloud/events/test_follower.py` and `test_follower_walk.py`.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cloud.clock import utc_now
from cloud.events.epoch import raise_epoch
from cloud.storage import Location
from cloud.storage.database import open_database
from lab.forks import ForkServer
from lab.postgres import cluster, database_location
from lab.processes import Process, wait_until
from tests.cloud.events.following import wrong_order
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.events_walk import following, producing
from tests.system.support.events_walk.following import FOLLOWER
from tests.system.support.events_walk.producing import SERVICE, Kill, Order
from tests.waiting import until

USUAL_TIME = "3 min"
MINUTES_MAX = 20.0
CONVERGE_SECONDS_MAX = 30.0
PRODUCER_SECONDS = 60.0
"""Seconds after the load, for processes that end late on a busy machine."""
OBJECTS = 50
LOST = 40
"""Positions of the feed that the backup of the restored producer does not have."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the databases and the time of the load."""
    parser.add_argument("--engine", action="append", choices=("sqlite", "postgresql"), help="only this one")
    parser.add_argument("--seconds", type=float, default=20.0, help="load of each step (default: %(default)s)")


class Walk:
    """The steps over one database engine, over one pair of databases."""

    def __init__(self, engine: str, folder: Path, forks: ForkServer, say: Say) -> None:
        self._engine = engine
        self._folder = folder
        self._forks = forks
        self._say = say
        self._number = 0
        self._places: dict[str, Location] = {}
        for service in (SERVICE, FOLLOWER):
            (folder / service).mkdir(parents=True)
            self._places[service] = database_location(engine, service, folder / service)
        following.prepare(self._places[FOLLOWER])
        self.figures: dict[str, Figure] = {}
        self.findings: list[str] = []
        self.deaths = 0

    def killed(self, seconds: float) -> None:
        """Kill producers and followers at random. On PostgreSQL there are two of each.

        The first snapshot is that of an empty producer, so every later event is applied.
        """
        self._under_load("empty", 0.0, lambda: None, dies=False)
        self._under_load("killed", seconds, lambda: None, dies=True)
        states, count = asyncio.run(following.produced(self._places[SERVICE]))
        rows = asyncio.run(following.applied(self._places[FOLLOWER]))
        self.figures[f"{self._engine}: events"] = count
        self.figures[f"{self._engine}: followers killed"] = self.deaths
        if len(rows) != count or len({row["subject"] for row in rows}) != len(states):
            self.findings.append(f"{self._engine}, killed: {count} events, and {len(rows)} were applied")
        if not self.deaths:
            self.findings.append(f"{self._engine}: no follower was killed")

    def server_restarted(self, seconds: float) -> None:
        """Stop PostgreSQL as a crash does, and start it again, in the middle of the load."""

        def restart() -> None:
            time.sleep(seconds / 3)
            cluster().stop()
            cluster().start()

        self._under_load("PostgreSQL restarted", seconds, restart, dies=False)

    def producer_restored(self) -> None:
        """Take the last changes of the producer away, as a restore from an older backup does, and raise the epoch."""
        asyncio.run(_go_back(self._places[SERVICE]))
        self._under_load("producer restored", 0.0, lambda: None, dies=False)

    def _under_load(self, name: str, seconds: float, meanwhile: Callable[[], None], *, dies: bool) -> None:
        """Run producers for `seconds`, and followers until they have everything. Measure how long that takes."""
        stop = self._folder / f"stop-{self._number}"
        count = 1 if self._engine == "sqlite" else 2
        producers = [self._producer(seconds, dies=dies) for _ in range(count)] if seconds else []
        followers = [self._follower(stop, dies=dies) for _ in range(count)]
        meanwhile()

        def ended() -> bool:
            followers[:] = [self._alive(process, stop, dies=dies) for process in followers]
            return not any(process.running for process in producers)

        wait_until("the end of the producers", ended, seconds + PRODUCER_SECONDS)
        for number, process in enumerate(producers):
            process.wait(60)
            if dies and number == 0:  # what the killed one has committed, another one gives a position
                self._producer(1.0, dies=False).wait(60)
        followers = [self._alive(process, stop, dies=False) for process in followers]
        taken = asyncio.run(self._converges(followers, stop))
        stop.touch()
        for process in followers:
            process.wait(30)
        rows = asyncio.run(following.applied(self._places[FOLLOWER]))
        self.findings += [f"{self._engine}, {name}: {wrong}" for wrong in wrong_order(rows)]
        if taken is None:
            self.findings.append(f"{self._engine}, {name}: not equal after {CONVERGE_SECONDS_MAX} s")
        else:
            self.figures[f"{self._engine}, {name}: seconds until equal"] = taken
        self._say(f"{self._engine}, {name}: {len(rows)} applied, equal after {taken} s")

    async def _converges(self, followers: list[Process], stop: Path) -> float | None:
        """Wait until everything is applied. A follower that dies has a successor that does not."""
        began = time.monotonic()

        async def equal() -> bool:
            followers[:] = [self._alive(process, stop, dies=False) for process in followers]
            return await following.is_equal(self._places[SERVICE], self._places[FOLLOWER])

        try:
            await until("equality", equal, CONVERGE_SECONDS_MAX)
        except AssertionError:
            return None
        return time.monotonic() - began

    def _producer(self, seconds: float, *, dies: bool) -> Process:
        self._number += 1
        kill = Kill("events.event.add", "after", 500) if dies else None
        order = Order(OBJECTS, seconds, kill=kill)
        return self._forks.call(self._folder, f"p{self._number}", producing.replica, self._places[SERVICE], order)

    def _follower(self, stop: Path, *, dies: bool) -> Process:
        self._number += 1
        program = following.mortal if dies else following.immortal
        places = (self._places[SERVICE], self._places[FOLLOWER], stop)
        return self._forks.call(self._folder, f"f{self._number}", program, *places)

    def _alive(self, process: Process, stop: Path, *, dies: bool) -> Process:
        """The process, or its successor if it has died."""
        if process.running:
            return process
        self.deaths += 1
        return self._follower(stop, dies=dies)


async def _go_back(producer: Location) -> None:
    """Have the producer's database as it was before its last events, in a new epoch."""
    async with open_database(SERVICE, producer) as engine:
        highest = "(SELECT MAX(position) FROM event_outbox)"
        await engine.run_ddl(f"DELETE FROM event_outbox WHERE position > {highest} - {LOST}")  # noqa: S608  constants
        await engine.run_ddl(
            "UPDATE event_object SET sequence = COALESCE((SELECT MAX(sequence) FROM event_outbox "
            "WHERE event_outbox.subject = event_object.subject), 0)"
        )
        await engine.run_ddl("DELETE FROM event_object WHERE sequence = 0")
        await raise_epoch(engine, utc_now())


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run all steps on each engine."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    cluster()  # PostgreSQL ends with the thread that starts it, so the main thread starts it
    forks = ForkServer("tests.system.support.events_walk.following")
    with tempfile.TemporaryDirectory(prefix="cascade-events-follow-") as folder:
        for engine in options.engine or ("sqlite", "postgresql"):
            walk = Walk(engine, Path(folder) / engine, forks, say)
            walk.killed(options.seconds)
            if engine == "postgresql":
                walk.server_restarted(options.seconds)
            walk.producer_restored()
            figures |= walk.figures
            findings += walk.findings
    return Outcome(figures, tuple(findings))
