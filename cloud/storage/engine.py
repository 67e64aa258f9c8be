"""The engine object of a service: Piccolo's engine on one side, a database backend on the other.

It is created at import, configured at start and opened in the event loop; several live in one process without
knowing of each other. It keeps the rules of transactions, the same for every backend: a transaction belongs to the
task that opened it, an inner one joins the outer, it is durable when its block ends, and any failure or
cancellation inside leaves nothing behind. It knows no SQL dialect and holds no connection.
"""

from __future__ import annotations

import asyncio
import contextvars
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from piccolo.engine.base import BaseTransaction, Engine
from piccolo.engine.sqlite import Atomic

from cloud.storage.errors import StorageNotOpen, TransactionMisuse
from cloud.storage.sqlite import SqliteBackend
from cloud.storage.statement import Row, Statement, is_read

if TYPE_CHECKING:
    from piccolo.engine.base import BaseBatch
    from piccolo.query.base import Query
    from piccolo.querystring import QueryString


class Session(Protocol):
    """The one open transaction of a connection, held by one task."""

    def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class Backend(Protocol):
    """A database: opens, begins transactions, and runs single statements outside of one."""

    engine_type: str

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def begin(self) -> Session: ...

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]: ...

    def read_inline(self, sql: str, args: tuple[Any, ...]) -> list[Row]: ...


class Transaction(BaseTransaction):
    """`async with engine.transaction():` durable on exit, nothing kept on an exception or a cancellation.

    Nested blocks join the outermost. If an inner block fails, the whole is rolled back, even where the outer block
    catches the exception: half a change is never committed.
    """

    __slots__ = ("_depth", "_doomed", "_engine", "_owner", "_session", "_token")

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._session: Session | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._token: contextvars.Token[Any] | None = None
        self._depth = 0
        self._doomed = False

    @property
    def is_open(self) -> bool:
        """True between the begin and the end of the outermost block."""
        return self._session is not None

    def session(self) -> Session:
        """The session, for the task that owns the transaction.

        Raises:
            TransactionMisuse: another task asks, the transaction is over, or an inner block has failed.
        """
        if self._session is None:
            raise TransactionMisuse("the transaction is over")
        if self._owner is not asyncio.current_task():
            raise TransactionMisuse("a transaction belongs to the task that opened it")
        if self._doomed:
            raise TransactionMisuse("an inner block of this transaction failed: it can only be rolled back")
        return self._session

    async def __aenter__(self, *_: Any, **__: Any) -> Self:
        if self._depth == 0:
            self._session = await self._engine.backend.begin()
            self._owner = asyncio.current_task()
            self._token = self._engine.current_transaction.set(self)
        else:
            self.session()
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
            raise TransactionMisuse("an inner block of this transaction failed: it was rolled back")
        return False


class ServiceEngine(Engine[Transaction]):
    """The engine of one service: `ENGINE = ServiceEngine("fabric")` in its tables.py, given to every table."""

    def __init__(self, service: str) -> None:
        # Engine.__init__ is not called: it runs an event loop at import to ask a database that is not known yet.
        self.service = service
        self.engine_type = "sqlite"
        self.log_queries = False
        self.log_responses = False
        self.min_version_number = 0
        self.query_id = 0
        self.current_transaction = contextvars.ContextVar(f"transaction_{service}", default=None)
        self._backend: Backend | None = None
        self._is_open = False

    def configure(self, path: Path) -> None:
        """Name the database; nothing is opened or made yet.

        Raises:
            TransactionMisuse: the engine is open.
        """
        if self._is_open:
            raise TransactionMisuse(f"cannot configure the engine of {self.service}: it is open")
        self._backend = SqliteBackend(path)
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

    def transaction(self, *_: Any, **__: Any) -> Transaction:
        """A new transaction, or the task's own one to join. Piccolo's options (type, nesting) have no meaning here."""
        return self._current() or Transaction(self)

    def _current(self) -> Transaction | None:
        """The open transaction of this context. One that has ended (a task started inside it lives on) is none."""
        current = self.current_transaction.get()
        return current if current is not None and current.is_open else None

    async def fetch(self, statement: Statement, *args: Any) -> list[Row]:
        """Run a compiled statement and return its rows, inside the task's transaction if there is one.

        A write outside a transaction is one of its own, durable when this returns.
        """
        if len(args) != statement.parameter_count:
            raise ValueError(f"the statement takes {statement.parameter_count} values, {len(args)} were given")
        sql = statement.sql(self.engine_type)
        current = self._current()
        if current is not None:
            return current.session().run(sql, args)
        if statement.reads:
            return self.backend.read_inline(sql, args)
        return await self._write(sql, args)

    async def fetch_one(self, statement: Statement, *args: Any) -> Row | None:
        """The first row of `fetch`, or None."""
        rows = await self.fetch(statement, *args)
        return rows[0] if rows else None

    async def _write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        async with self.transaction() as transaction:
            return transaction.session().run(sql, args)

    async def _run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        current = self._current()
        if current is not None:
            return current.session().run(sql, args)
        if is_read(sql):
            return await self.backend.read(sql, args)
        return await self._write(sql, args)

    async def run_querystring(self, querystring: QueryString, in_pool: bool = True) -> list[Row]:
        """Piccolo's entry for queries."""
        sql, args = querystring.compile_string(engine_type=self.engine_type)
        return await self._run(sql, tuple(args))

    async def run_ddl(self, ddl: str, in_pool: bool = True) -> list[Row]:
        """Piccolo's entry for changes of the schema."""
        return await self._run(ddl, ())

    def atomic(self, *_: Any, **__: Any) -> Atomic:
        """Piccolo's list of queries in one transaction."""
        return Atomic(engine=self)  # type: ignore[arg-type]  # it calls nothing but our transaction()

    async def batch(self, query: Query[Any, Any], batch_size: int = 100, node: str | None = None) -> BaseBatch:
        """Not offered: a cursor held open between awaits would hold back the log's checkpoint. Use pages."""
        raise NotImplementedError("batches are not offered: read in pages")

    async def get_version(self) -> float:
        """Piccolo warns of old servers by this; the backends check for themselves."""
        return 0.0

    def get_version_sync(self) -> float:
        """As `get_version`."""
        return 0.0

    async def prep_database(self) -> None:
        """Nothing to prepare: no extension of the database is used."""
