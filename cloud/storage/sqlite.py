"""SQLite behind the storage port.

One persistent writer (WAL, synchronous=FULL: what is committed survives a power cut) whose transactions run one
after the other, and two readers that never see uncommitted rows. Bounded statements run where they are called, in
the event loop's thread: one takes 5-20 us, a hop to a thread and back 35-80 us. What waits for the disk (COMMIT with
its sync) and what may be long (`browse`) runs in one worker thread.

Commits are grouped. A transaction that ends while others wait for the writer does not sync: the next one goes on
in the same database transaction, behind a savepoint, and the last of the group commits for all. Each member is told
only after that COMMIT, one that failed as well, since it has seen what the others wrote; its own failure takes back
its own changes, a failed COMMIT those of all. When nobody waits, a transaction commits at once, as if it were alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections import deque
from pathlib import Path
from typing import Any

import piccolo.engine.sqlite  # noqa: F401  (registers the adapters and converters of the column types)

from cloud.storage.errors import DatabaseBusy, IntegrityError, StorageError, TransactionLost, ValueRefused
from cloud.storage.statement import EngineType, Row
from cloud.storage.worker import Worker, settled

BUSY_WAIT_SECONDS = 5.0
"""How long a write waits for another process; ours is the only one in service, so this covers an operator's shell."""
BUSY_POLL_SECONDS = 0.02
READER_BUSY_MS = 2_000
"""In WAL mode a reader waits only while another process recovers or closes the log."""
CACHED_STATEMENTS = 512
WAL_CHECKPOINT_PAGES = 4_000
"""16 MiB of log between checkpoints: a page that many transactions change is copied once. They run inside COMMIT, in
the worker thread."""
CACHE_KIB = 32 * 1024
"""Of the writer: keys are random, so an insert into a table with eight indexes touches a page of each."""
GROUP_MAX = 32
"""Transactions that share a COMMIT. The first of them waits for the others, about 0.2 ms each, less than a sync."""


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
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}").fetchall()
    else:
        connection.execute(f"PRAGMA busy_timeout = {READER_BUSY_MS}").fetchall()
        connection.execute("PRAGMA query_only = ON")
    return connection


def run(connection: sqlite3.Connection, sql: str, args: tuple[Any, ...]) -> list[Row]:
    """Run one statement to its end and return its rows.

    Raises:
        IntegrityError, ValueRefused, StorageError: never an exception of the driver.
    """
    try:
        cursor = connection.execute(sql, args)
        rows = cursor.fetchall()
    except sqlite3.IntegrityError as error:
        raise IntegrityError(str(error)) from error
    except (sqlite3.DataError, OverflowError, UnicodeEncodeError) as error:
        raise ValueRefused("a value does not fit its column") from error
    except sqlite3.Error as error:
        raise StorageError(f"the database refused a statement: {error}") from error
    if not rows:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


class SqliteSession:
    """The writer, held by one task until commit or rollback gives it on."""

    __slots__ = ("_backend", "_writer")

    def __init__(self, backend: SqliteBackend, writer: sqlite3.Connection) -> None:
        self._backend = backend
        self._writer = writer

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement inside the transaction, here and now.

        Raises:
            TransactionLost: the database has rolled back by itself; the statement would have run on its own.
        """
        if not self._writer.in_transaction:
            raise TransactionLost("the database ended the transaction before its end")
        return run(self._writer, sql, args)

    async def commit(self) -> None:
        """Durable when this returns. On an error, or if the database has lost the transaction, nothing is kept."""
        if not self._writer.in_transaction:
            await self.rollback()
            raise TransactionLost("the database ended the transaction before its end")
        await settled(self._backend.finish())

    async def rollback(self) -> None:
        """Forget all. The changes are gone before any wait; then it waits for those whose changes it may have seen.

        Raises:
            StorageError: what it may have seen was not kept.
        """
        shared = self._backend.take_back()
        if shared is not None:
            await settled(shared)


class SqliteBackend:
    """One database file, opened by one process."""

    engine_type: EngineType = "sqlite"

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
        self._is_held = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._members: list[asyncio.Future[None]] = []
        """The transactions of the open group that have ended and wait for its COMMIT."""
        self._is_closing = False
        self._browse_lock = asyncio.Lock()
        self._worker = Worker(f"storage-{self._path.stem}")

    async def close(self) -> None:
        """Wait for the running transactions and the running query, then close; the log is folded into the file."""
        self._is_closing = True  # from here on every transaction commits by itself
        await self._take()
        async with self._browse_lock:
            self._worker.stop()
            for connection in (self._browser, self._reader, self._writer):
                connection.close()

    # The writer is held by one task, or by a COMMIT. It is handed on, never let go while anyone waits or is owed one.

    async def _take(self) -> None:
        if not self._is_held:
            self._is_held = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was our turn already
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Let the next task write, in the open group while it has room; otherwise commit the group first."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if self._members and (not self._waiting or len(self._members) >= GROUP_MAX or self._is_closing):
            self._worker.submit(self._commit, self._committed)
        elif self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._is_held = False

    def finish(self) -> asyncio.Future[None]:
        """End the holder's transaction; the future is done when it is durable, or has an error and nothing is kept."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._members.append(mine)
        self._hand_on()
        return mine

    def take_back(self) -> asyncio.Future[None] | None:
        """Undo the holder's transaction; if it stood behind others, the future is done when theirs is durable."""
        shared: asyncio.Future[None] | None = None
        if not self._members:
            self._undo("ROLLBACK")
        elif self._writer.in_transaction and self._undo("ROLLBACK TO member"):
            shared = asyncio.get_running_loop().create_future()
            self._members.append(shared)
        else:  # the whole group went with it; its members are told, and so is this one
            self._undo("ROLLBACK")
            self._tell(TransactionLost("the database ended a transaction that was committed together with this one"))
        self._hand_on()
        return shared

    def _undo(self, sql: str) -> bool:
        """False: the connection could not do it and was opened anew, which rolls back all it had."""
        try:
            if self._writer.in_transaction:
                self._writer.execute(sql)
            return True
        except sqlite3.Error:
            self._reopen()
            return False

    def _reopen(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._writer.close()
        # A failure here shows at the next BEGIN, which tries again.
        with contextlib.suppress(OSError, sqlite3.Error):
            self._writer = connect(self._path, writes=True)

    def _commit(self) -> None:
        """In the worker thread: COMMIT with its sync."""
        try:
            if not self._writer.in_transaction:
                raise TransactionLost("the database ended the transaction before its end")
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo("ROLLBACK")
            raise StorageError(f"cannot commit: {error}") from error

    def _committed(self, _: None, error: BaseException | None) -> None:
        self._tell(error)
        self._hand_on()

    def _tell(self, error: BaseException | None) -> None:
        """End the group. Each member gets an exception of its own: one that is raised twice mixes up tracebacks."""
        members, self._members = self._members, []
        for member in members:
            if error is None:
                member.set_result(None)
            else:
                kind = type(error) if isinstance(error, StorageError) else StorageError
                fault = kind(str(error))
                fault.__cause__ = error
                member.set_exception(fault)

    async def begin(self, keys: tuple[str, ...] = ()) -> SqliteSession:
        """Take the writer and begin, alone or behind the others of the open group. There is one writer: keys do nothing.

        Raises:
            DatabaseBusy: another process kept the write lock for longer than `BUSY_WAIT_SECONDS`.
        """
        await self._take()
        try:
            if self._members:
                run(self._writer, "SAVEPOINT member", ())
            else:
                await self._begin()
        except BaseException:  # a cancellation too must give the writer on
            self._hand_on()
            raise
        return SqliteSession(self, self._writer)

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        while True:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.ProgrammingError as error:  # closed: it could not be opened anew
                self._reopen()
                raise StorageError(f"cannot begin: {error}") from error
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise StorageError(f"cannot begin: {error}") from error
                deadline = deadline or loop.time() + BUSY_WAIT_SECONDS
                if loop.time() > deadline:
                    raise DatabaseBusy(f"another process is writing to {self._path}") from error
            await asyncio.sleep(BUSY_POLL_SECONDS)

    async def write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """One statement in a transaction of its own, durable when this returns."""
        session = await self.begin()
        try:
            rows = await session.run(sql, args)
        except BaseException:
            await session.rollback()
            raise
        await session.commit()
        return rows

    async def browse(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A query of unknown length, in the worker thread, on a connection of its own."""
        async with self._browse_lock:
            return await self._worker.settle(lambda: run(self._browser, sql, args))

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A bounded query, here and now."""
        return run(self._reader, sql, args)
