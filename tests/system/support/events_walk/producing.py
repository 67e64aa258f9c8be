"""The processes of the walk: a replica that commits changes with events, and one that stops while it gives positions.

Each change writes a row of the audit and an event in one transaction. So at the end the rows say which events there must
be. After each commit the process prints the change and the time, which is when a caller would have its answer.
"""

import asyncio
import os
import random
import signal
import time
from typing import Any

import msgspec

from cloud.audit import AuditEntries
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.clock import utc_now
from cloud.events.doorbell import Doorbell
from cloud.events.parts import EventParts, make_event_parts
from cloud.events.settings import EventSettings
from cloud.storage import Location, ServiceEngine, Statement, StorageError
from cloud.storage.database import open_database
from cloud.tasks.stopping import BackgroundTask, Stopping
from protocol import faults
from protocol.faults import Stage

SERVICE = "breakwater"
WRITERS = 4
"""Tasks of a replica that commit changes at the same time."""
STATEMENT_SECONDS = 1.0
"""Pause between two statements of a transaction that is kept open. PostgreSQL ends one that is idle for longer."""
_ONE = Statement("SELECT 1 AS one")


class Change(msgspec.Struct, frozen=True):
    """The body of an event: the id of the audit's row."""

    row: str


class Kill(msgspec.Struct, frozen=True):
    """Where a replica kills itself: a fault point, the stage, and the number of the passage."""

    point: str
    stage: Stage
    passage: int


class Order(msgspec.Struct, frozen=True):
    """What a replica does: change `objects` objects for `seconds`, or `changes` times if that is not 0.

    `hold_seconds`: it also keeps one transaction with an event open for as long. `kill`: it kills itself there.
    """

    objects: int
    seconds: float
    changes: int = 0
    hold_seconds: float = 0.0
    kill: Kill | None = None


def parts_over(engine: ServiceEngine) -> EventParts:
    """The parts of a producer."""
    return make_event_parts(engine, SERVICE, utc_now, os.urandom, EventSettings())


class Replica:
    """One process of the service."""

    def __init__(self, engine: ServiceEngine, order: Order) -> None:
        self.parts = parts_over(engine)
        self._engine = engine
        self._order = order
        self._made = 0
        self._entries = AuditEntries(AuditRow, utc_now, os.urandom)
        self._audit = AuditStore(engine)

    async def run(self) -> None:
        """Run the tasks of a service, and the writers until they have done what the order says."""
        doorbell, stopping = Doorbell(self._engine, utc_now), Stopping()
        self.parts.connect(doorbell)
        tasks = [asyncio.create_task(_task(task, stopping)) for task in (*self.parts.tasks(), doorbell.run)]
        ends = asyncio.get_running_loop().time() + self._order.seconds
        await asyncio.gather(self._hold(), *(self._writer(ends) for _ in range(WRITERS)))
        stopping.request()
        await asyncio.gather(*tasks)

    async def change(self, thing: str) -> None:
        """Commit one change of an object, and report it."""
        async with self._engine.transaction(f"thing:{thing}"):
            row = await self._write(thing)
        _report(row)

    async def _write(self, thing: str) -> str:
        """Write a change of an object in the task's transaction. Return the id of its row."""
        entry = self._entries.make("walk", "thing.change", thing)
        await self._audit.add(entry)
        await self.parts.outbox.add("thing", thing, "changed", Change(entry.id))
        return entry.id

    async def _writer(self, ends: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < ends and not 0 < self._order.changes <= self._made:
            self._made += 1
            try:
                await self.change(f"o{random.randrange(self._order.objects)}")
            except StorageError as error:
                print(f"failed: {error}", flush=True)  # noqa: T201  (the output of the process)
            await asyncio.sleep(0)

    async def _hold(self) -> None:
        if not self._order.hold_seconds:
            return
        await asyncio.sleep(STATEMENT_SECONDS)
        async with self._engine.transaction("thing:held"):
            row = await self._write("held")
            ends = asyncio.get_running_loop().time() + self._order.hold_seconds
            while asyncio.get_running_loop().time() < ends:
                await asyncio.sleep(STATEMENT_SECONDS)
                await self._engine.fetch(_ONE)
        _report(row)


def _report(row: str) -> None:
    """Print that a change is committed, with the time of the system's clock."""
    print(f"{row} {time.time():.6f}", flush=True)  # noqa: T201  (the output of the process)


async def _task(task: BackgroundTask, stopping: Stopping) -> None:
    await task(stopping)


def replica(location: Location, order: Order) -> None:
    """The program of a replica."""
    if order.kill is not None:
        _die_at(order.kill)

    async def work() -> None:
        async with open_database(SERVICE, location) as engine:
            await Replica(engine, order).run()

    asyncio.run(work())


def _die_at(kill: Kill) -> None:
    passages = 0

    def hook(name: str, stage: Stage) -> None:
        nonlocal passages
        if (name, stage) == (kill.point, kill.stage):
            passages += 1
            if passages == kill.passage:
                os.kill(os.getpid(), signal.SIGKILL)

    faults.install(hook)


class _Hanging(ServiceEngine):
    """An engine whose process is stopped after the statement that gives positions, before its commit."""

    async def _stop_after(self, rows: Any) -> Any:
        found = await rows
        os.kill(os.getpid(), signal.SIGSTOP)
        return found

    def fetch(self, statement: Statement, /, **values: Any) -> Any:
        rows = super().fetch(statement, **values)
        return self._stop_after(rows) if "ROW_NUMBER" in statement.postgres else rows


def hanging(location: Location) -> None:
    """The program of a process that is stopped in the middle of giving positions."""

    async def work() -> None:
        engine = _Hanging(SERVICE)
        engine.configure(location)
        await engine.open()
        made = Replica(engine, Order(1, 0.0))
        await made.change("hanging")
        await made.parts.sequencer.run_once()

    asyncio.run(work())
