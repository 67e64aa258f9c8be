"""PostgreSQL behind the storage port.

A transaction holds one connection from its begin to its end and runs READ COMMITTED behind advisory locks, taken in
the round trip of its BEGIN: without keys the service's lock, alone; with keys the service's lock, shared, and each
key's, alone. So what reads and then writes is as safe as with SQLite's one writer, in all replicas. A single
statement outside a transaction is one round trip: it commits by itself and takes none of these locks.

A COMMIT is durable when the server answers it: each new connection is refused unless the server has
`synchronous_commit` on, and `fsync` and `full_page_writes` too where the location needs them. The database sorts by
code point (LOCALE 'C'), as SQLite does, so that pages by key are the same on both.

A statement that was cut off, by a cancellation or by time, has ended before the connection is used again; where the
server does not say so, the connection is dropped. When the server is away, each call fails as `DatabaseUnavailable`;
when it is back, connections are made anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path
from typing import Any

import asyncpg

from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    IntegrityError,
    OutcomeUnknown,
    StorageError,
    TransactionLost,
    ValueRefused,
)
from cloud.storage.location import PostgresLocation
from cloud.storage.pool import DRIVER_ERRORS, Pool, rest
from cloud.storage.statement import EngineType, Row

SERVER_VERSION_MIN = 15
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 30
"""Far beyond any bounded statement: what takes longer is a server that does not answer."""
LOCK_SECONDS = 5
"""As SQLite's BUSY_WAIT_SECONDS: how long a transaction waits for those that exclude it."""
IDLE_SECONDS = 60
"""A transaction that does nothing for so long belongs to a process that hangs; it would keep out all the others."""
PATIENT_SECONDS = 300
CACHED_STATEMENTS = 512
PASSWORD_BYTES_MAX = 1024
COLLATIONS = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8"})

_SERVER = """
SELECT current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes, pg_is_in_recovery() AS is_standby,
       pg_encoding_to_char(encoding) AS encoding, datcollate AS collation, datlocprovider::text AS provider
FROM pg_database WHERE datname = current_database()
"""

_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver has lost track of a connection, as when it was ended between statements
    OSError,
)
_BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


def fault(error: BaseException) -> Exception:
    """A driver's exception as one of ours. Messages carry the server's first line, which holds no value of a row."""
    first = str(error.args[0]) if error.args else type(error).__name__
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return IntegrityError(first)
    if isinstance(error, asyncpg.DataError | ValueError):  # the client's DataError is a ValueError
        return ValueRefused("a value does not fit its column")
    if isinstance(error, _BUSY):
        return DatabaseBusy(f"the database is busy: {first}")
    if isinstance(error, asyncpg.IdleInTransactionSessionTimeoutError):
        return TransactionLost("the database ended a transaction that stood still for too long")
    if isinstance(error, _AWAY):
        return DatabaseUnavailable(f"the database is not available: {first}")
    return StorageError(f"the database refused a statement: {first}")


def lock_id(service: str, key: str = "") -> int:
    """The number of an advisory lock; without a key the service's own."""
    name = f"{service}\0{key}" if key else service
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def begin_sql(service: str, keys: tuple[str, ...]) -> str:
    """BEGIN and the locks, one message to the server. Keys are locked in the order of their numbers: no deadlock."""
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    if not keys:
        return f"{begin}; SELECT pg_advisory_xact_lock({lock_id(service)})"
    locks = [f"SELECT pg_advisory_xact_lock({lock})" for lock in sorted({lock_id(service, key) for key in keys})]
    return "; ".join((begin, f"SELECT pg_advisory_xact_lock_shared({lock_id(service)})", *locks))


class PostgresSession:
    """A connection inside a transaction, held by one task until commit or rollback gives it back."""

    __slots__ = ("_backend", "_connection", "_is_alone")

    def __init__(self, backend: PostgresBackend, connection: asyncpg.Connection, *, is_alone: bool) -> None:
        self._backend = backend
        self._connection = connection
        self._is_alone = is_alone

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement inside the transaction.

        Raises:
            TransactionLost: the transaction is over; the statement would have run on its own.
        """
        if not self._connection.is_in_transaction():
            raise TransactionLost("the database ended the transaction before its end")
        try:
            return [dict(record) for record in await self._connection.fetch(sql, *args)]
        except DRIVER_ERRORS as error:
            raise fault(error) from _cause(error)

    async def commit(self) -> None:
        """Durable when this returns. On an error nothing is kept, except that OutcomeUnknown leaves it open.

        A cancellation leaves all or nothing, and has settled which when it is raised.
        """
        connection = self._connection
        try:
            if not connection.is_in_transaction():
                raise TransactionLost("the database ended the transaction before its end")
            if await connection.execute("COMMIT") != "COMMIT":
                raise TransactionLost("the database rolled the transaction back")
        except BaseException as error:
            await rest(connection)
            if isinstance(error, DRIVER_ERRORS):
                raise _unknown(fault(error)) from _cause(error)
            raise
        finally:
            self._backend.release(connection, is_alone=self._is_alone)

    async def rollback(self) -> None:
        """Forget all. The connection is at rest when this returns, or dropped."""
        try:
            await rest(self._connection)
        finally:
            self._backend.release(self._connection, is_alone=self._is_alone)


class PostgresBackend:
    """One database of a server, used by one process or by many."""

    engine_type: EngineType = "postgres"

    def __init__(self, location: PostgresLocation, service: str, *, patient: bool = False) -> None:
        self._location = location
        self._service = service
        self._patient = patient

    async def open(self) -> None:
        """Make the first connection, which proves that the server can be used."""
        self._pool = Pool(self._location.pool, self._connect)
        self._alone = asyncio.Lock()
        """Transactions without keys queue here first, so that those that wait hold no connection."""
        try:
            self._pool.give(await self._pool.take())
        except StorageError as error:
            raise type(error)(f"cannot open the database {self._location}: {error}") from error

    async def close(self) -> None:
        """Wait for the running transactions, then close."""
        await self._pool.close()

    def _password(self) -> str:
        name = self._location.password_file
        if not name:
            return ""  # not None: the driver would look for one in the environment and in home directories
        try:
            with Path(name).open("rb") as file:
                return file.read(PASSWORD_BYTES_MAX).decode("utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read the database's password file {name}") from error

    def _tls(self) -> ssl.SSLContext | bool:
        name = self._location.tls_ca_file
        if not name or self._location.is_local:
            return False
        try:
            return ssl.create_default_context(cafile=name)  # verifies the chain and the host name
        except (OSError, ssl.SSLError) as error:
            raise StorageError(f"cannot read the database's CA file {name}") from error

    async def _connect(self) -> asyncpg.Connection:
        location = self._location
        seconds = PATIENT_SECONDS if self._patient else STATEMENT_SECONDS
        try:
            connection = await asyncpg.connect(
                host=location.host,
                port=location.port,
                database=location.name,
                user=location.user,
                password=self._password(),
                ssl=self._tls(),
                timeout=CONNECT_SECONDS,
                command_timeout=seconds,
                statement_cache_size=CACHED_STATEMENTS,
                max_cached_statement_lifetime=0,
                server_settings={
                    "application_name": f"cascade-{self._service}",
                    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
                    "jit": "off",
                    "lock_timeout": f"{PATIENT_SECONDS if self._patient else LOCK_SECONDS}s",
                    "timezone": "UTC",
                },
            )
        except ValueError as error:
            raise StorageError(f"cannot use the database's address: {error}") from error
        except DRIVER_ERRORS as error:
            raise fault(error) from error
        try:
            await self._check(connection)
        except BaseException as error:  # a cancellation too
            connection.terminate()
            if isinstance(error, DRIVER_ERRORS):
                raise fault(error) from error
            raise
        return connection

    async def _check(self, connection: asyncpg.Connection) -> None:
        """Refuse a server on which a commit is not durable, or that would sort or store otherwise than we rely on."""
        version = connection.get_server_version().major
        if version < SERVER_VERSION_MIN:
            raise StorageError(f"cannot use PostgreSQL {version}: {SERVER_VERSION_MIN} or later is needed")
        server = await connection.fetchrow(_SERVER)
        if server["is_standby"]:
            raise DatabaseUnavailable("the database server is a standby")
        if server["synchronous_commit"] == "off":
            raise StorageError("cannot use a database with synchronous_commit off: a commit would not be durable")
        for name in ("fsync", "full_page_writes"):
            if self._location.needs_fsync and server[name] != "on":
                raise StorageError(f"cannot use a database server with {name} off: a power cut would ruin it")
        if server["encoding"] != "UTF8" or server["provider"] == "i" or server["collation"] not in COLLATIONS:
            raise StorageError(
                "cannot use this database: make it with ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0 "
                f"(it has {server['encoding']}, {server['collation']})"
            )

    async def begin(self, keys: tuple[str, ...] = ()) -> PostgresSession:
        """Take a connection, begin, and take the locks.

        Raises:
            DatabaseBusy: those that exclude this one, or hold all connections, took longer than we wait.
        """
        is_alone = not keys
        if is_alone:
            await self._alone.acquire()
        try:
            connection = await self._pool.take()
        except BaseException:  # a cancellation too must let the next one try
            if is_alone:
                self._alone.release()
            raise
        try:
            await connection.execute(begin_sql(self._service, keys))
        except BaseException as error:
            try:
                await rest(connection)
            finally:
                self.release(connection, is_alone=is_alone)
            if isinstance(error, DRIVER_ERRORS):
                raise fault(error) from error
            raise
        return PostgresSession(self, connection, is_alone=is_alone)

    def release(self, connection: asyncpg.Connection, *, is_alone: bool) -> None:
        """Give a session's connection back."""
        self._pool.give(connection)
        if is_alone:
            self._alone.release()

    async def write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """One statement that commits by itself, durable when this returns.

        Raises:
            OutcomeUnknown: the connection was lost meanwhile; the statement has done all of it or nothing.
        """
        return await self._fetch(sql, args, writes=True)

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A query; it sees what is committed."""
        return await self._fetch(sql, args, writes=False)

    browse = read

    async def _fetch(self, sql: str, args: tuple[Any, ...], *, writes: bool) -> list[Row]:
        connection = await self._pool.take()
        try:
            return [dict(record) for record in await connection.fetch(sql, *args)]
        except BaseException as error:
            if not isinstance(error, asyncpg.PostgresError) or isinstance(error, _AWAY):
                await rest(connection)
            if isinstance(error, DRIVER_ERRORS):
                wrong = fault(error)
                raise (_unknown(wrong) if writes else wrong) from _cause(error)
            raise
        finally:
            self._pool.give(connection)


def _unknown(error: Exception) -> Exception:
    if type(error) is DatabaseUnavailable:
        return OutcomeUnknown(f"{error}; what was being committed is kept whole or not at all")
    return error


def _cause(error: BaseException) -> BaseException | None:
    """None where the driver's message shows the value that was refused: values may be secrets."""
    return None if isinstance(error, ValueError | asyncpg.DataError) else error
