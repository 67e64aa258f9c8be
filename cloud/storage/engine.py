"""The engine of a service: runs statements and transactions on a database backend.

Wiring makes the engine, configures it and opens it in the event loop. One process can have several engines; they are
independent. The engine knows no SQL dialect and holds no connection. It keeps the rules of transactions, which are the
same for every backend:

- A transaction belongs to the task that opened it. An inner transaction joins the outer one.
- A transaction is durable when its block ends. After a failure or cancellation inside, none of its changes stay. A
statement that fails ends its transaction. A write that may meet an existing row uses `ON CONFLICT DO NOTHING`, or runs
outside a transaction.
- A transaction without keys excludes every other transaction of the service, in all replicas. A transaction with keys
excludes transactions that share a key, and transactions without keys. So it may read, decide on and write only the data
that its keys cover. Keys in `reads` are shared: two transactions may read the same data, and exclude its writers.
- A process that hangs inside a transaction blocks others that need its keys, until the database ends its transaction
after some seconds. A transaction without keys would then wait for it, and every other transaction for that one. So a
service at work uses keys, and only migrations and `cascade init` use none.
- The waits of one request share one limit (`cloud.storage.waits`). After it the request fails with `DatabaseBusy`.
- A single write outside a transaction is its own transaction and excludes no other. It must be right by itself
(compare-and-set), and must not write data that a transaction reads, decides on or writes.
- Inside a transaction, wait for the database only. Other transactions wait for this one. On SQLite, even transactions
whose block has ended can wait for it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias

from cloud.storage.errors import StorageNotOpen, TransactionMisuse
from cloud.storage.location import Location, PostgresLocation
from cloud.storage.locks import Locks
from cloud.storage.sqlite import SqliteBackend, SqliteUnchanged
from cloud.storage.statement import EngineType, Row, Statement
from cloud.tasks.stopping import Stopping

HINT_CHARS_MAX = 4000
"""PostgreSQL takes payloads of less than 8000 bytes."""
Took: TypeAlias = Callable[[str], None]
Connected: TypeAlias = Callable[[], Awaitable[None]]


class Session(Protocol):
    """The open transaction of a connection. One task holds it."""

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement and return its rows."""

    async def commit(self) -> None:
        """Commit. The changes are durable when the method returns."""

    async def rollback(self) -> None:
        """Undo all changes."""


class Backend(Protocol):
    """Port: a database. It begins transactions, and runs single statements outside of transactions."""

    @property
    def engine_type(self) -> EngineType:
        """The dialect of the database."""

    async def open(self) -> None:
        """Open the connections. Raises StorageError."""

    async def close(self) -> None:
        """Wait for running transactions, then close the connections."""

    async def begin(self, locks: Locks, patience: float | None) -> Session:
        """Begin a transaction that excludes others as the module describes. Raises StorageError."""

    def hint(self, text: str) -> None:
        """Send a hint to all processes of the service, soon."""

    async def listen(self, took: Took, connected: Connected, stopping: Stopping) -> None:
        """Send hints, and call `took` with each hint, until the process stops. Call `connected` when hints may have been lost."""
        ...

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a query that is bounded by a key or a LIMIT."""
        ...

    async def browse(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a query of unknown length."""
        ...

    async def write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run one statement. Its changes are durable when the method returns."""
        ...


class Transaction:
    """`async with engine.transaction():` is durable on exit. An exception or a cancellation undoes all its changes.

    Nested blocks join the outermost block. If a statement or an inner block fails, the whole transaction is rolled
    back, even if the exception is caught. So half a change is never committed.
    """

    __slots__ = ("_depth", "_doomed", "_engine", "_owner", "_patience", "_session", "_token", "calls", "hints", "locks")

    def __init__(self, engine: ServiceEngine, locks: Locks, patience: float | None = None) -> None:
        self._engine = engine
        self.locks = locks
        self.hints: list[str] = []
        """Hints that are sent after the commit."""
        self.calls: dict[Callable[[], None], None] = {}
        """Functions that are called after the commit, each once."""
        self._patience = patience
        self._session: Session | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._token: contextvars.Token[Any] | None = None
        self._depth = 0
        self._doomed = False

    @property
    def is_open(self) -> bool:
        """True from the begin to the end of the outermost block."""
        return self._session is not None

    def joined(self, locks: Locks) -> Transaction:
        """Return this transaction, for an inner block that asks for `locks`.

        Raises:
            TransactionMisuse: the outer block holds only some of the keys that the inner block needs.
        """
        if not self.locks.cover(locks):
            raise TransactionMisuse(f"a transaction for {self.locks} cannot be joined by one for {locks}")
        return self

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement. After a failed or cancelled statement, the transaction can only be rolled back."""
        session = self._checked()
        try:
            return await session.run(sql, args)
        except BaseException:  # also for a cancellation: the statement may have run
            self._doomed = True
            raise

    def _checked(self) -> Session:
        """Return the session, if the calling task owns the transaction.

        Raises:
            TransactionMisuse: another task calls, the transaction is over, or a part of it has failed.
        """
        if self._session is None:
            raise TransactionMisuse("the transaction is over")
        if self._owner is not asyncio.current_task():
            raise TransactionMisuse("a transaction belongs to the task that opened it")
        if self._doomed:
            raise TransactionMisuse("a part of this transaction failed: it can only be rolled back")
        return self._session

    async def __aenter__(self) -> Self:
        if self._depth == 0:
            self._session = await self._engine.backend.begin(self.locks, self._patience)
            self._owner = asyncio.current_task()
            self._token = self._engine.current_transaction.set(self)
        else:
            self._checked()
        self._depth += 1
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self._depth -= 1
        if self._depth:
            self._doomed = self._doomed or exception_type is not None
            return False
        session, self._session = self._session, None
        if self._token is not None:
            self._engine.current_transaction.reset(self._token)
        if session is None:
            raise TransactionMisuse("the transaction is over")
        if exception_type is None and not self._doomed:
            try:
                await session.commit()
            finally:
                # The change may have been made, also after a cancellation or a broken connection. A needless hint does
                # no harm.
                for hint in self.hints:
                    self._engine.backend.hint(hint)
                for call in self.calls:
                    call()
            return False
        await session.rollback()
        if exception_type is None:
            raise TransactionMisuse("a part of this transaction failed: it was rolled back")
        return False


class ServiceEngine:
    """The engine of one service. Tables do not know it: stores get the engine and run statements with it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.engine_type: EngineType = "sqlite"
        self.current_transaction = contextvars.ContextVar[Transaction | None](f"transaction_{service}", default=None)
        self._backend: Backend | None = None
        self._is_open = False

    def configure(self, location: Location, *, patient: bool = False, unchanged: bool = False) -> None:
        """Name the database. Nothing is opened or made yet.

        `patient` is for migrations: statements and locks may then take much longer. An `unchanged` SQLite file is only
        read, and neither the file nor one beside it is made.

        Raises:
            TransactionMisuse: the engine is open.
        """
        if self._is_open:
            raise TransactionMisuse(f"cannot configure the engine of {self.service}: it is open")
        if isinstance(location, PostgresLocation):
            from cloud.storage.postgres import PostgresBackend

            self._backend = PostgresBackend(location, self.service, patient=patient)
        else:
            self._backend = SqliteUnchanged(location) if unchanged else SqliteBackend(location)
        self.engine_type = self._backend.engine_type

    async def open(self) -> None:
        """Open the connections, in the running event loop.

        Raises StorageNotOpen before `configure`, and StorageError.
        """
        if self._backend is None:
            raise StorageNotOpen(f"the engine of {self.service} has not been configured")
        await self._backend.open()
        self._is_open = True

    async def close(self) -> None:
        """Wait for running transactions, then close the connections. A repeat has no effect."""
        if self._is_open:
            self._is_open = False
            await self.backend_configured.close()

    @property
    def backend_configured(self) -> Backend:
        """The backend, open or not. Raises StorageNotOpen before `configure`."""
        if self._backend is None:
            raise StorageNotOpen(f"the engine of {self.service} has not been configured")
        return self._backend

    @property
    def backend(self) -> Backend:
        """The open backend.

        Raises:
            StorageNotOpen: before `open` and after `close`.
        """
        if not self._is_open or self._backend is None:
            raise StorageNotOpen(f"the engine of {self.service} is not open")
        return self._backend

    def transaction(self, *keys: str, reads: tuple[str, ...] = (), patience: float | None = None) -> Transaction:
        """Return a new transaction, or the task's own open transaction, which the block then joins.

        `keys` name the data that the transaction reads, decides on and writes ("node:ID"). `reads` name data that it
        reads only. Without either it excludes all other transactions of the service. SQLite has one writer, so keys
        have no effect there. `patience` is the number of seconds that the transaction waits for locks, also for those
        of rows, if that is less than the request may still wait.

        Raises:
            TransactionMisuse: the task's open transaction does not hold the keys.
        """
        locks = Locks(keys, reads)
        current = self._current()
        return Transaction(self, locks, patience) if current is None else current.joined(locks)

    def _current(self) -> Transaction | None:
        """Return the open transaction of this context, or None.

        A task that was started inside a transaction may still see it after its end, so a transaction that has ended is
        ignored.
        """
        current = self.current_transaction.get()
        return current if current is not None and current.is_open else None

    def fetch(self, statement: Statement, /, **values: Any) -> Coroutine[Any, Any, list[Row]]:
        """Run a bounded statement and return its rows, inside the task's transaction if there is one.

        `values` are the statement's parameters by name. A write outside a transaction is its own transaction, and
        durable when the method returns.

        Raises:
            TypeError: a parameter has no value, or a value has no parameter.
        """
        return self._start(statement, statement.arguments(values))

    async def fetch_one(self, statement: Statement, /, **values: Any) -> Row | None:
        """Return the first row of `fetch`, or None."""
        rows = await self._start(statement, statement.arguments(values))
        return rows[0] if rows else None

    def _start(self, statement: Statement, bound: tuple[Any, ...]) -> Coroutine[Any, Any, list[Row]]:
        """Return the backend's own coroutine.

        A query by key takes 7 us, so every further call and coroutine would show.
        """
        sql = statement.sqlite if self.engine_type == "sqlite" else statement.postgres
        current = self.current_transaction.get()
        if current is not None and current.is_open:
            return current.run(sql, bound)
        return self.backend.read(sql, bound) if statement.reads else self.backend.write(sql, bound)

    async def browse(self, statement: Statement, /, **values: Any) -> list[Row]:
        """Return the rows of a SELECT of unknown length.

        On SQLite it runs in a thread, unless it is inside a transaction.
        """
        bound = statement.arguments(values)
        sql = statement.sql(self.engine_type)
        current = self._current()
        if current is not None:
            return await current.run(sql, bound)
        return await self.backend.browse(sql, bound)

    @property
    def is_in_transaction(self) -> bool:
        """Whether the running task has an open transaction."""
        return self._current() is not None

    @property
    def commits_in_order(self) -> bool:
        """Whether transactions run one after the other, so that their rows become visible in the order of the inserts.

        It is so on SQLite, which has one writer.
        """
        return self.engine_type == "sqlite"

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call a function of this process after the commit of the task's transaction, or at once without one.

        The function only wakes work: it may be called although nothing was committed. Several requests for the same
        function in one transaction are one call.
        """
        current = self._current()
        if current is not None:
            current.calls[call] = None
        else:
            call()

    @property
    def sends_hints(self) -> bool:
        """Whether hints reach other processes. On SQLite they do not."""
        return self.engine_type == "postgres"

    def hint(self, text: str) -> None:
        """Send a hint to all processes of the service that `listen`, after the commit of the task's transaction.

        This process sends it while it listens, or when the engine is closed. A hint only makes a process read its rows
        earlier. It can be lost. `text` has at most `HINT_CHARS_MAX` characters. On SQLite only this process gets it.
        """
        if len(text) > HINT_CHARS_MAX:
            raise TransactionMisuse(f"a hint has at most {HINT_CHARS_MAX} characters")
        current = self._current()
        if current is not None:
            current.hints.append(text)
        else:
            self.backend.hint(text)

    async def listen(self, took: Took, connected: Connected, stopping: Stopping) -> None:
        """Background task: send hints, and call `took` with the text of each hint, until the process stops.

        `connected` is called when hints may have been lost: after the first connection and after each later one.
        """
        await self.backend.listen(took, connected, stopping)

    async def run_ddl(self, ddl: str) -> None:
        """Run a change of the schema, inside the task's transaction if there is one."""
        current = self._current()
        if current is not None:
            await current.run(ddl, ())
        else:
            await self.backend.write(ddl, ())
