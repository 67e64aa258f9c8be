"""SQLite behind the storage port.

One persistent writer (WAL, synchronous=FULL: what is committed survives a power cut) whose transactions are
serialised by a lock, and two readers that never see uncommitted rows. Compiled statements run where they are
called, in the event loop's thread: a bounded statement takes 5-20 us, a hop to a thread and back 35-80 us. What
waits for the disk, COMMIT with its sync, and what may be long, the query builder's SELECTs, run in one worker
thread. A cancelled task waits until its running statement has settled, so the writer is never left in doubt.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import piccolo.engine.sqlite  # noqa: F401  (registers the adapters and converters of the column types)

from cloud.storage.errors import DatabaseBusy, StorageError, TransactionLost
from cloud.storage.statement import Row

T = TypeVar("T")

BUSY_WAIT_SECONDS = 5.0
"""How long a write waits for another process; ours is the only one in service, so this covers an operator's shell."""
BUSY_POLL_SECONDS = 0.02
READER_BUSY_MS = 2_000
"""In WAL mode a reader waits only while another process recovers or closes the log."""
CACHED_STATEMENTS = 512
WAL_CHECKPOINT_PAGES = 1_000
"""4 MiB of log between checkpoints; they run inside COMMIT, in the worker thread."""


class Job:
    """A call on its way through the worker. The waiter may be cancelled; the job is done only when it has run."""

    __slots__ = ("call", "done", "error", "result", "waiter")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.waiter: asyncio.Future[None] | None = None

    def answer(self) -> None:
        """Wake whoever waits; runs in the event loop."""
        self.done = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Worker:
    """One thread that runs calls in order and answers in the event loop: half the cost of an executor."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.result = job.call()
            except BaseException as error:  # noqa: BLE001  not handled here: it is carried to the task that waits for it
                job.error = error
            self._loop.call_soon_threadsafe(job.answer)
            del job

    async def settle(self, call: Callable[[], T]) -> T:
        """Run `call` to its end even if this task is cancelled meanwhile; the cancellation is raised afterwards."""
        job = Job(call)
        self._jobs.put(job)
        cancelled: asyncio.CancelledError | None = None
        while not job.done:
            job.waiter = self._loop.create_future()
            try:
                await job.waiter
            except asyncio.CancelledError as caught:
                cancelled = caught
        if cancelled is not None:
            raise cancelled from job.error
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def stop(self) -> None:
        """End the thread after the jobs that are queued."""
        self._jobs.put(None)
        self._thread.join()


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open one connection with our settings. A writer makes the file (0600) if it is missing."""
    if writes:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
        detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES,
        timeout=0.0,
    )
    if writes:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}").fetchall()
    else:
        connection.execute(f"PRAGMA busy_timeout = {READER_BUSY_MS}").fetchall()
        connection.execute("PRAGMA query_only = ON")
    return connection


def run(connection: sqlite3.Connection, sql: str, args: tuple[Any, ...]) -> list[Row]:
    """Run one statement to its end and return its rows."""
    cursor = connection.execute(sql, args)
    rows = cursor.fetchall()
    if not rows:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


class SqliteSession:
    """The writer, inside BEGIN IMMEDIATE, held by one task until commit or rollback gives it back."""

    __slots__ = ("_backend", "_writer")

    def __init__(self, backend: SqliteBackend, writer: sqlite3.Connection) -> None:
        self._backend = backend
        self._writer = writer

    def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement inside the transaction.

        Raises:
            TransactionLost: the database has rolled back by itself; the statement would have run on its own.
        """
        if not self._writer.in_transaction:
            raise TransactionLost("the database ended the transaction before its end")
        return run(self._writer, sql, args)

    async def commit(self) -> None:
        """Durable when this returns. On an error, or if the database has lost the transaction, nothing is kept."""
        try:
            if not self._writer.in_transaction:
                raise TransactionLost("the database ended the transaction before its end")
            await self._backend.worker.settle(self._commit)
        finally:
            self._backend.release()

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise StorageError(f"cannot commit: {error}") from error

    async def rollback(self) -> None:
        """Forget all; it does not wait for the disk, so it runs here and no cancellation can come between."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        finally:
            self._backend.release()


class SqliteBackend:
    """One database file, opened by one process."""

    engine_type = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> None:
        """Open the writer first (it makes the file), then the readers."""
        try:
            self._writer = connect(self._path, writes=True)
            self._reader = connect(self._path, writes=False)
            self._browser = connect(self._path, writes=False)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot open the database {self._path}: {error}") from error
        self._lock = asyncio.Lock()
        self._browse_lock = asyncio.Lock()
        self.worker = Worker(f"storage-{self._path.stem}")

    async def close(self) -> None:
        """Wait for the running transaction and query, then close; the log is folded into the file."""
        async with self._lock, self._browse_lock:
            self.worker.stop()
            for connection in (self._browser, self._reader, self._writer):
                connection.close()

    async def begin(self) -> SqliteSession:
        """Take the writer and begin.

        Raises:
            DatabaseBusy: another process kept the write lock for longer than `BUSY_WAIT_SECONDS`.
        """
        await self._lock.acquire()
        try:
            await self._begin()
        except BaseException:  # a cancellation too must give the writer back
            self.release()
            raise
        return SqliteSession(self, self._writer)

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        while True:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise StorageError(f"cannot begin: {error}") from error
                deadline = deadline or loop.time() + BUSY_WAIT_SECONDS
                if loop.time() > deadline:
                    raise DatabaseBusy(f"another process is writing to {self._path}") from error
            await asyncio.sleep(BUSY_POLL_SECONDS)

    def release(self) -> None:
        """Give the writer to the next task."""
        self._lock.release()

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A query of unknown length, in the worker thread, on a connection of its own."""
        async with self._browse_lock:
            return await self.worker.settle(lambda: run(self._browser, sql, args))

    def read_inline(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A bounded query, here and now."""
        return run(self._reader, sql, args)
