"""Adapter: SQLite behind the storage port.

There is one persistent writer, whose transactions run one after the other, and two readers, which never see uncommitted
rows. The writer uses WAL and synchronous=FULL, so committed changes survive a power cut. Bounded statements run where
they are called, in the thread of the event loop: a statement takes 5-20 us, passing it to a thread and back 35-80 us.
Work that waits for the disk (COMMIT with its sync) runs in one worker thread, and queries that may be long (`browse`) in
another, so that no commit waits for a query.

Commits are grouped. If a transaction ends while others wait for the writer, it does not sync. The next transaction
continues in the same database transaction, behind a savepoint, and the last one of the group commits for all. Each
member gets its result only after this COMMIT, also a member that failed, because it has seen the changes of the others.
The failure of a member undoes its own changes. A failed COMMIT undoes the changes of all. If no other transaction
waits, a transaction commits at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import piccolo.engine.sqlite  # noqa: F401  (registers the adapters and converters of the column types)

from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseNotWritable,
    DatabaseUnavailable,
    DiskFull,
    IntegrityError,
    StorageError,
    TransactionLost,
    ValueRefused,
)
from cloud.storage.location import is_disk_full
from cloud.storage.locks import WHOLE, Locks
from cloud.storage.statement import EngineType, Row
from cloud.storage.worker import Worker, settled
from cloud.tasks.stopping import Stopping

BUSY_WAIT_SECONDS = 5.0
"""Seconds for which a write waits for another process. A service is the only process that writes, so this covers an
operator's shell."""
BUSY_POLL_SECONDS = 0.02
"""Pause between two tries while another process holds the write lock: SQLite has no event for its end."""
BUSY_MS = 2_000
"""Milliseconds for which an opening or a reader waits. In WAL mode, it waits only while another process recovers or
closes the log."""
CACHED_STATEMENTS = 512
"""Prepared statements that a connection keeps."""
WAL_CHECKPOINT_PAGES = 4_000
"""Pages of log between checkpoints, 16 MiB. A page that many transactions change is then copied once. Checkpoints run
inside COMMIT, in the worker thread."""
CACHE_KIB = 32 * 1024
"""Cache of the writer, in KiB. Keys are random, so an insert into a table with eight indexes touches a page of each
index."""
GROUP_MAX = 32
"""Maximum number of transactions that share a COMMIT. The first one waits about 0.2 ms for each of the others, which is
less than a sync."""

_PRIMARY = 0xFF
"""The low byte of an extended result code is the primary code (https://www.sqlite.org/rescode.html)."""
_KINDS: dict[int, type[StorageError]] = {
    sqlite3.SQLITE_FULL: DiskFull,
    sqlite3.SQLITE_IOERR: DatabaseNotWritable,
    sqlite3.SQLITE_READONLY: DatabaseNotWritable,
    sqlite3.SQLITE_CANTOPEN: DatabaseNotWritable,
    sqlite3.SQLITE_PERM: DatabaseNotWritable,
    sqlite3.SQLITE_NOMEM: DatabaseUnavailable,
    sqlite3.SQLITE_CORRUPT: DatabaseUnavailable,
    sqlite3.SQLITE_NOTADB: DatabaseUnavailable,
    sqlite3.SQLITE_PROTOCOL: DatabaseBusy,
    sqlite3.SQLITE_BUSY: DatabaseBusy,
    sqlite3.SQLITE_LOCKED: DatabaseBusy,
}


def fault(error: sqlite3.Error, what: str) -> StorageError:
    """Return the error that says what the driver's exception means. `what` begins its text, for example "cannot commit".

    An exception that says nothing about the disk or the file becomes a plain `StorageError`: it is a fault of our code.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    name = getattr(error, "sqlite_errorname", "")
    return _KINDS.get(code & _PRIMARY, StorageError)(f"{what}: {error}" + (f" ({name})" if name else ""))


def _utc(text: bytes) -> datetime:
    return datetime.fromisoformat(text.decode()).replace(tzinfo=UTC)


# Piccolo's converters for these columns take a third of the time of a query by key, because they allow for values that
# only other programs store. The module `piccolo.engine.sqlite` has been imported, so these take their place.
sqlite3.register_converter("INTEGER", int)
sqlite3.register_converter("BOOLEAN", b"1".__eq__)
sqlite3.register_converter("TIMESTAMPTZ", _utc)


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open one connection with our settings. A writer makes the file (mode 0600) if it is missing."""
    if writes:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
        detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES,
        timeout=BUSY_MS / 1000,  # another process may close the database now, which locks it for a moment
    )
    try:
        if writes:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}").fetchall()
            connection.execute("PRAGMA busy_timeout = 0").fetchall()
        else:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
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
        raise fault(error, "the database refused a statement") from error
    if not rows:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


class SqliteSession:
    """The writer inside a transaction. One task holds it until commit or rollback passes it on."""

    __slots__ = ("_backend", "_writer")

    def __init__(self, backend: SqliteBackend, writer: sqlite3.Connection) -> None:
        self._backend = backend
        self._writer = writer

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement inside the transaction, in the calling thread.

        Raises:
            TransactionLost: the database has rolled back by itself. Otherwise the statement would commit by itself.
        """
        if not self._writer.in_transaction:
            raise TransactionLost("the database ended the transaction before its end")
        return run(self._writer, sql, args)

    async def commit(self) -> None:
        """Commit. The changes are durable when the method returns.

        On an error, or if the database has ended the transaction, nothing is kept.
        """
        if not self._writer.in_transaction:
            await self.rollback()
            raise TransactionLost("the database ended the transaction before its end")
        await settled(self._backend.finish())

    async def rollback(self) -> None:
        """Undo the changes at once, then wait for the transactions whose changes this one may have seen.

        Raises:
            StorageError: the changes that it may have seen were not kept.
        """
        shared = self._backend.take_back()
        if shared is not None:
            await settled(shared)


class SqliteBackend:
    """One database file. One process opens it."""

    engine_type: EngineType = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listeners: list[Callable[[str], None]] = []

    async def open(self) -> None:
        """Open the writer, which makes the file, then the readers. Raises StorageError."""
        try:
            with contextlib.ExitStack() as opened:
                self._writer, self._reader, self._browser = (
                    opened.enter_context(contextlib.closing(connect(self._path, writes=writes)))
                    for writes in (True, False, False)
                )
                opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            if is_disk_full(self._path.parent):
                raise DiskFull(f"cannot open the database {self._path}: the disk is full") from error
            raise StorageError(f"cannot open the database {self._path}: {error}") from error
        self._is_held = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._members: list[asyncio.Future[None]] = []
        """The transactions of the open group that have ended and wait for its COMMIT."""
        self._is_closing = False
        self._browse_lock = asyncio.Lock()
        self._worker = Worker(f"storage-{self._path.stem}")
        self._browsing = Worker(f"browse-{self._path.stem}")

    async def close(self) -> None:
        """Wait for running transactions and the running query, then close. SQLite then merges the log into the file."""
        self._is_closing = True  # from now on every transaction commits by itself
        await self._take()
        async with self._browse_lock:
            self._browsing.stop()
            self._worker.stop()
            for connection in (self._browser, self._reader, self._writer):
                connection.close()

    # One task or one COMMIT holds the writer. The holder passes it on as long as a task waits for it or a group must be
    # committed.

    async def _take(self) -> None:
        if not self._is_held:
            self._is_held = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the writer had been passed to us already
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Pass the writer to the next task.

        The task joins the open group while the group has room. Otherwise the group is committed first.
        """
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if self._members and (not self._waiting or len(self._members) >= GROUP_MAX or self._is_closing):
            self._worker.submit(self._commit, self._committed)
        elif self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._is_held = False

    def finish(self) -> asyncio.Future[None]:
        """End the holder's transaction.

        The future is done when the changes are durable, or has an error if nothing is kept.
        """
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._members.append(mine)
        self._hand_on()
        return mine

    def take_back(self) -> asyncio.Future[None] | None:
        """Undo the holder's transaction.

        Return a future if it ran behind others: it is done when theirs are durable.
        """
        shared: asyncio.Future[None] | None = None
        if not self._members:
            self._undo("ROLLBACK")
        elif self._writer.in_transaction and self._undo("ROLLBACK TO member"):
            shared = asyncio.get_running_loop().create_future()
            self._members.append(shared)
        else:  # the whole group was rolled back: all its members get the error, including this one
            self._undo("ROLLBACK")
            self._tell(TransactionLost("the database ended a transaction that was committed together with this one"))
        self._hand_on()
        return shared

    def _undo(self, sql: str) -> bool:
        """Run a rollback.

        Return False if it failed; the connection was then opened again, which rolls back everything.
        """
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
        # A failure here is seen at the next BEGIN, which tries again.
        with contextlib.suppress(OSError, sqlite3.Error):
            self._writer = connect(self._path, writes=True)

    def _commit(self) -> None:
        """Run COMMIT with its sync, in the worker thread."""
        try:
            if not self._writer.in_transaction:
                raise TransactionLost("the database ended the transaction before its end")
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo("ROLLBACK")
            raise fault(error, "cannot commit") from error

    def _committed(self, _: None, error: BaseException | None) -> None:
        self._tell(error)
        self._hand_on()

    def _tell(self, error: BaseException | None) -> None:
        """End the group.

        Each member gets its own exception, because an exception that is raised twice mixes tracebacks.
        """
        members, self._members = self._members, []
        for member in members:
            if error is None:
                member.set_result(None)
            else:
                kind = type(error) if isinstance(error, StorageError) else StorageError
                own = kind(str(error))
                own.__cause__ = error
                member.set_exception(own)

    async def begin(self, locks: Locks = WHOLE, patience: float | None = None) -> SqliteSession:
        """Take the writer and begin a transaction, alone or behind the others of the open group.

        There is one writer, so `locks` and `patience` have no effect.

        Raises:
            DatabaseBusy: another process held the write lock for longer than `BUSY_WAIT_SECONDS`.
        """
        await self._take()
        try:
            if self._members:
                run(self._writer, "SAVEPOINT member", ())
            else:
                await self._begin()
        except BaseException:  # also for a cancellation: the writer must be passed on
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
            except sqlite3.ProgrammingError as error:  # the connection is closed because it could not be opened again
                self._reopen()
                raise DatabaseUnavailable(f"cannot begin: {error}") from error
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise fault(error, "cannot begin") from error
                deadline = deadline or loop.time() + BUSY_WAIT_SECONDS
                if loop.time() > deadline:
                    raise DatabaseBusy(f"another process is writing to {self._path}") from error
            await asyncio.sleep(BUSY_POLL_SECONDS)

    def hint(self, text: str) -> None:
        """Have the listeners of this process called soon. No other process serves an SQLite file.

        The request that made the change may have been cancelled inside COMMIT. Then only the hint wakes the polls.
        """
        for took in self._listeners:
            asyncio.get_running_loop().call_soon(took, text)

    async def listen(
        self, took: Callable[[str], None], connected: Callable[[], Awaitable[None]], stopping: Stopping
    ) -> None:
        """Call `connected`, then `took` with each hint of this process, until the process stops."""
        self._listeners.append(took)
        try:
            await connected()
            await stopping.wait()
        finally:
            self._listeners.remove(took)

    async def write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run one statement in its own transaction. Its changes are durable when the method returns."""
        session = await self.begin()
        try:
            rows = await session.run(sql, args)
        except BaseException:  # also for a cancellation: the writer must be passed on
            await session.rollback()
            raise
        await session.commit()
        return rows

    async def browse(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a query of unknown length, in a thread for such queries, on its own connection. One runs at a time."""
        async with self._browse_lock:
            return await self._browsing.settle(lambda: run(self._browser, sql, args))

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a bounded query in the calling thread."""
        return run(self._reader, sql, args)


class SqliteUnchanged(SqliteBackend):
    """One database file that is only read. No file is made, neither the database nor its log."""

    async def open(self) -> None:
        """Open the reader. Raises StorageError also for a missing file."""
        # Without a log no process has the file open, and SQLite need not make the files of one.
        has_log = await asyncio.to_thread(Path(f"{self._path}-wal").exists)
        how = "mode=ro" if has_log else "mode=ro&immutable=1"
        try:
            self._reader = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?{how}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES,
            )
            run(self._reader, "SELECT 1 FROM sqlite_master", ())
        except sqlite3.Error as error:
            if is_disk_full(self._path.parent):
                raise DiskFull(f"cannot open the database {self._path}: the disk is full") from error
            raise fault(error, f"cannot open the database {self._path}") from error

    async def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    async def begin(self, locks: Locks = WHOLE, patience: float | None = None) -> SqliteSession:
        """Refuse every transaction. Raises StorageError."""
        raise StorageError("this database is only read")

    async def browse(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a query in the calling thread."""
        return run(self._reader, sql, args)
