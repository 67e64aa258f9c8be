"""Background task: stores verified statements, after the verdict already uses them.

The agent takes a statement into memory first, so no disk delays a verdict and no full disk ends a paid machine's
licence. `Saver` stores the statements in worker threads, oldest generation first. A later statement of a generation
replaces an earlier one that still waits. A record that cannot be written is reported as the condition `not_stored`,
and is retried with back-off.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import trio

from node.conditions import Conditions
from node.disk.thread import DiskSilent, on_disk
from node.errors import NodeError, StateError
from node.licensing.acceptance import Accept
from node.licensing.raising import FloorKeeper
from node.licensing.store import LicenceStore

log = logging.getLogger("cascadia.state")

NOT_STORED = "not_stored"
"""Code of the condition."""
RETRY_SECONDS_FIRST = 2.0
RETRY_SECONDS_MAX = 300.0
"""The pause between two tries doubles from the first to the last. A statement that comes meanwhile ends the pause."""
WRITE_SECONDS_MAX = 30.0
"""After this time a disk that does not answer counts as failing. Its thread is left behind."""
FINISH_SECONDS_MAX = 0.9
"""At the end of a process: how long it waits for statements that are not stored yet. With the bound of closing the
connection, SIGTERM ends an agent with a frozen disk within 2 s."""


class _Waiting(msgspec.Struct, frozen=True):
    """A statement that waits for the disk. `left` are the records that are not written; None means all."""

    accepted: Accept
    at: datetime
    left: tuple[Path, ...] | None = None

    @property
    def what(self) -> str:
        """The statement, in the words of a message."""
        statement = self.accepted.statement.statement
        return f"the {type(statement).__name__.lower()} of generation {statement.generation}"


class Saver:
    """The statements of one state directory that are in use and not stored yet."""

    def __init__(self, store: LicenceStore, conditions: Conditions, floors: FloorKeeper) -> None:
        self.store = store
        self.floors = floors
        self._conditions = conditions
        self._waiting: dict[int, _Waiting] = {}
        self._then: dict[int, Callable[[], None]] = {}
        self._put = trio.Event()
        self._one_at_a_time = trio.Lock()

    def put(self, accepted: Accept, at: datetime) -> None:
        """Have a statement stored. `at` is the wall clock's time at which it came. It returns at once."""
        generation = accepted.statement.statement.generation
        before = self._waiting.get(generation)
        if before is not None and before.accepted.settles:
            accepted = msgspec.structs.replace(accepted, settles=True)
        self._waiting[generation] = _Waiting(accepted, at)
        self._put.set()

    def put_then(self, generation: int, work: Callable[[], None]) -> None:
        """Have `work` done on the disk once the generation's statement is in a record. `work` raises StateError only."""
        self._then[generation] = work
        self._put.set()

    def waits(self, generation: int) -> bool:
        """Whether a statement of the generation is not in all of its records."""
        return generation in self._waiting

    async def flush(self) -> NodeError | None:
        """Try once to store every statement that waits.

        Returns the error that keeps a statement out of all of its records, or that stopped the work after it; None if
        every statement has a record.
        """
        lost: NodeError | None = None
        problems: list[tuple[str, NodeError]] = []
        async with self._one_at_a_time:
            for generation, waiting in sorted(self._waiting.items()):
                failed = await self._store(waiting)
                stored = not self._records(waiting) <= failed.keys()
                if stored:
                    self.floors.note(waiting.accepted.statement)
                if self._waiting.get(generation) is waiting:
                    if failed:
                        self._waiting[generation] = msgspec.structs.replace(waiting, left=tuple(failed))
                    else:
                        del self._waiting[generation]
                if failed:
                    errors = list(failed.values())
                    problems.append((_text(waiting, errors, stored=stored), errors[0]))
                    lost = lost or (None if stored else errors[0])
            for generation, work in sorted(self._then.items()):
                error = await self._do(generation, work)
                if error is not None:
                    problems.append((error.text, error))
                    lost = lost or error
            self._report(problems)
        return lost

    async def _store(self, waiting: _Waiting) -> Mapping[Path, NodeError]:
        """Write the records that are left. Returns the error of each record that was not written."""
        write = partial(self.store.record, waiting.accepted, waiting.at, waiting.left)
        try:
            return await on_disk(write, seconds_max=WRITE_SECONDS_MAX)
        except DiskSilent as error:
            left = self.store.to_write(waiting.accepted) if waiting.left is None else waiting.left
            return dict.fromkeys(left, error)

    async def _do(self, generation: int, work: Callable[[], None]) -> NodeError | None:
        """Do the work after a statement, unless the statement has no record yet. Returns its error."""
        waiting = self._waiting.get(generation)
        if waiting is not None and (waiting.left is None or self._records(waiting) <= set(waiting.left)):
            return None
        try:
            await on_disk(work, seconds_max=WRITE_SECONDS_MAX)
        except (StateError, DiskSilent) as error:
            return error
        if self._then.get(generation) is work:
            del self._then[generation]
        return None

    def _records(self, waiting: _Waiting) -> set[Path]:
        return set(self.store.records(waiting.accepted.statement))

    def _report(self, problems: list[tuple[str, NodeError]]) -> None:
        if not problems:
            self._conditions.clear(NOT_STORED)
            return
        text = "; ".join(problem for problem, _ in problems)
        if self._conditions.report(NOT_STORED, text, f"{problems[0][1].next} The agent then stores it by itself."):
            log.error("%s", text)

    async def run(self) -> None:
        """Store each statement that comes, and retry what the disk refuses. Runs until it is cancelled."""
        pause = RETRY_SECONDS_FIRST
        while True:
            self._put = trio.Event()
            await self.flush()
            if not (self._waiting or self._then):
                pause = RETRY_SECONDS_FIRST
                await self._put.wait()
            else:
                with trio.move_on_after(pause):
                    await self._put.wait()
                pause = min(2 * pause, RETRY_SECONDS_MAX)

    async def finish(self) -> None:
        """At the end of the process: try once more, for at most FINISH_SECONDS_MAX."""
        if self._waiting or self._then:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FINISH_SECONDS_MAX):
                await self.flush()


def _text(waiting: _Waiting, errors: list[NodeError], *, stored: bool) -> str:
    """The cause, and whether a restart without the cloud would forget the statement."""
    fate = "another record has it" if stored else "a restart without the cloud would forget it"
    return f"cannot store {waiting.what}: {'; '.join(dict.fromkeys(error.text for error in errors))} ({fate})"
