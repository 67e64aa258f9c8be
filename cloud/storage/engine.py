"""The engine of a service: runs statements and transactions on a database backend.

Wiring makes it, configures it and opens it in the event loop; several engines live in one process without knowing of
each other. It knows no SQL dialect and holds no connection. It keeps the rules of transactions, the same for every
backend:

- A transaction belongs to the task that opened it; an inner one joins the outer.
- It is durable when its block ends; any failure or cancellation inside leaves nothing behind. A statement that fails
  ends its transaction: what may be refused says `ON CONFLICT DO NOTHING`, or stands alone.
- A transaction without keys excludes every other one of the service, in all replicas. One with keys excludes those
  with a key in common, and those without: so it may read, decide and write only what its keys stand for.
- A single write outside a transaction is one of its own and excludes nothing: it must be right by itself
  (compare-and-set), and leave alone what a transaction reads, decides on and writes.
- Inside a transaction one waits for nothing but the database: others wait for it, on SQLite even some that are done.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from cloud.storage.errors import StorageNotOpen, TransactionMisuse
from cloud.storage.location import Location, PostgresLocation
from cloud.storage.sqlite import SqliteBackend
from cloud.storage.statement import EngineType, Row, Statement


class Session(Protocol):
    """The one open transaction of a connection, held by one task."""

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class Backend(Protocol):
    """A database: opens, begins transactions, and runs single statements outside of one."""

    @property
    def engine_type(self) -> EngineType: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def begin(self, keys: tuple[str, ...]) -> Session: ...

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A query bounded by a key or a LIMIT."""
        ...

    async def browse(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A query of unknown length."""
        ...

    async def write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """One statement, durable when this returns."""
        ...


class Transaction:
    """`async with engine.transaction():` durable on exit, nothing kept on an exception or a cancellation.

    Nested blocks join the outermost. If a statement or an inner block fails, the whole is rolled back, even where the
    exception is caught: half a change is never committed.
    """

    __slots__ = ("_depth", "_doomed", "_engine", "_keys", "_owner", "_session", "_token")

    def __init__(self, engine: ServiceEngine, keys: tuple[str, ...] = ()) -> None:
        self._engine = engine
        self._keys = keys
        self._session: Session | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._token: contextvars.Token[Any] | None = None
        self._depth = 0
        self._doomed = False

    @property
    def is_open(self) -> bool:
        """True between the begin and the end of the outermost block."""
        return self._session is not None

    def joined(self, keys: tuple[str, ...]) -> Transaction:
        """This transaction, for an inner block that asks for `keys`.

        Raises:
            TransactionMisuse: the outer block excludes less than the inner one relies on.
        """
        if self._keys and not (keys and set(keys) <= set(self._keys)):
            raise TransactionMisuse(f"a transaction for {self._keys} cannot be joined by one for {keys or 'all'}")
        return self

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement; after one that failed, or was cancelled, the transaction can only be rolled back."""
        session = self._checked()
        try:
            return await session.run(sql, args)
        except BaseException:  # a cancellation too: the statement may have run
            self._doomed = True
            raise

    def _checked(self) -> Session:
        """The session, for the task that owns the transaction.

        Raises:
            TransactionMisuse: another task asks, the transaction is over, or something in it has failed.
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
            self._session = await self._engine.backend.begin(self._keys)
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
            await session.commit()
            return False
        await session.rollback()
        if exception_type is None:
            raise TransactionMisuse("a part of this transaction failed: it was rolled back")
        return False


class ServiceEngine:
    """The engine of one service. Tables do not know it: stores are given the engine and run statements with it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.engine_type: EngineType = "sqlite"
        self.current_transaction = contextvars.ContextVar[Transaction | None](f"transaction_{service}", default=None)
        self._backend: Backend | None = None
        self._is_open = False

    def configure(self, location: Location, *, patient: bool = False) -> None:
        """Name the database; nothing is opened or made yet. `patient`: for migrations, which may wait and take long.

        Raises:
            TransactionMisuse: the engine is open.
        """
        if self._is_open:
            raise TransactionMisuse(f"cannot configure the engine of {self.service}: it is open")
        if isinstance(location, PostgresLocation):
            from cloud.storage.postgres import PostgresBackend

            self._backend = PostgresBackend(location, self.service, patient=patient)
        else:
            self._backend = SqliteBackend(location)
        self.engine_type = self._backend.engine_type

    async def open(self) -> None:
        """Open the connections, in the running event loop."""
        if self._backend is None:
            raise StorageNotOpen(f"the engine of {self.service} has not been configured")
        await self._backend.open()
        self._is_open = True

    async def close(self) -> None:
        """Wait for the running transaction and close; harmless when closed already."""
        if self._is_open:
            self._is_open = False
            await self.backend_configured.close()

    @property
    def backend_configured(self) -> Backend:
        """The backend, open or not."""
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

    def transaction(self, *keys: str) -> Transaction:
        """A new transaction, or the task's own one to join.

        `keys` name what it reads, decides on and writes ("node:ID"); without any it is alone in the service. On
        SQLite, with its one writer, keys change nothing.

        Raises:
            TransactionMisuse: the task's own one does not hold the keys.
        """
        current = self._current()
        return Transaction(self, keys) if current is None else current.joined(keys)

    def _current(self) -> Transaction | None:
        """The open transaction of this context. One that has ended (a task started inside it lives on) is none."""
        current = self.current_transaction.get()
        return current if current is not None and current.is_open else None

    def fetch(self, statement: Statement, /, **values: Any) -> Coroutine[Any, Any, list[Row]]:
        """Run a bounded statement and return its rows, inside the task's transaction if there is one.

        `values` are the statement's parameters by name. A write outside a transaction is one of its own, durable when
        this returns.

        Raises:
            TypeError: a parameter has no value, or a value has no parameter.
        """
        return self._start(statement, statement.arguments(values))

    async def fetch_one(self, statement: Statement, /, **values: Any) -> Row | None:
        """The first row of `fetch`, or None."""
        rows = await self._start(statement, statement.arguments(values))
        return rows[0] if rows else None

    def _start(self, statement: Statement, bound: tuple[Any, ...]) -> Coroutine[Any, Any, list[Row]]:
        """The backend's own coroutine: each call and each coroutine around it shows in a query by key, of 7 us."""
        sql = statement.sqlite if self.engine_type == "sqlite" else statement.postgres
        current = self.current_transaction.get()
        if current is not None and current.is_open:
            return current.run(sql, bound)
        return self.backend.read(sql, bound) if statement.reads else self.backend.write(sql, bound)

    async def browse(self, statement: Statement, /, **values: Any) -> list[Row]:
        """The rows of a SELECT of unknown length. On SQLite it runs in a thread, unless it is inside a transaction."""
        bound = statement.arguments(values)
        sql = statement.sql(self.engine_type)
        current = self._current()
        if current is not None:
            return await current.run(sql, bound)
        return await self.backend.browse(sql, bound)

    async def run_ddl(self, ddl: str) -> None:
        """Run a change of the schema, inside the task's transaction if there is one."""
        current = self._current()
        if current is not None:
            await current.run(ddl, ())
        else:
            await self.backend.write(ddl, ())
