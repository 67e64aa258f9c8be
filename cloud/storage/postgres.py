"""Adapter: PostgreSQL behind the storage port.

A transaction holds one connection from its begin to its end. It runs READ COMMITTED behind advisory locks, which it
takes in the round trip of its BEGIN. Without keys, it takes the service's lock exclusively. With keys, it takes the
service's lock shared, the lock of each key exclusively, and the lock of each key that it only reads shared. So a
transaction that reads and then writes is as safe as with SQLite's one writer, in all replicas. A single statement
outside a transaction is one round trip. It commits by itself and takes no advisory lock.

Waits are bounded, and a peer that hangs costs others nothing but the keys that it holds:

- Transactions of this process queue for their keys before they take a connection. A transaction that then finds a lock
taken by another process waits `QUICK_SECONDS`. After that it waits on a patient connection. At most half of the
connections are patient, so transactions with other keys always find one.
- All waits of a request together are bounded by `cloud.storage.waits`.
- The server ends a transaction that has been idle for `IDLE_SECONDS`, and a statement inside a transaction that has run
as long. asyncpg prepares a statement in one message and runs it in the next; a process that is stopped between the two
is not idle for the server, so it needs the second limit.

A COMMIT is durable when the server answers it. Each new connection is refused unless the server has
`synchronous_commit` on, and also `fsync` and `full_page_writes` if the location needs them. The database sorts by code
point (LOCALE 'C') like SQLite, so that pages by key are the same on both.

A statement that was interrupted, by a cancellation or a time-out, has ended before its connection is used again. If the
server does not confirm the end, the connection is dropped. While the server is away, each call raises
`DatabaseUnavailable`. Once it is back, new connections are made.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from pathlib import Path
from typing import Any

import asyncpg

from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    StorageError,
    TransactionLost,
)
from cloud.storage.hints import Connected, Outbox, Took, channel_of, listen
from cloud.storage.key_queue import KeyQueue
from cloud.storage.location import PostgresLocation
from cloud.storage.locks import WHOLE, Locks
from cloud.storage.pool import DRIVER_ERRORS, Pool, rest
from cloud.storage.postgres_errors import cause_of, fault, leaves_doubt, unknown
from cloud.storage.statement import EngineType, Row
from cloud.storage.waits import WAIT_SECONDS, Waits, current_waits
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.storage")

SERVER_VERSION_MIN = 15
CONNECT_SECONDS = 5.0
"""Seconds for a new connection to the server."""
STATEMENT_SECONDS = 30
"""Seconds for one statement. Bounded statements take far less, so after this time the server is considered hung."""
QUICK_SECONDS = 0.1
"""Seconds for which a transaction waits for another process's locks on any connection, before it waits as a patient
one."""
IDLE_SECONDS = 4.0
"""Seconds after which the server ends a transaction whose process hangs. A transaction at work is never idle for as
long, because its process waits for nothing but the database. It is less than `WAIT_SECONDS`, so a request that needs
the same keys outlives the hanging process's transaction."""
PATIENT_SECONDS = 300
"""Seconds for a statement or a lock of a migration."""
LAST_HINTS_SECONDS = 0.5
"""Seconds for the hints that wait when the process stops. It has to end within three seconds."""
CACHED_STATEMENTS = 512
"""Prepared statements that a connection keeps."""
PASSWORD_BYTES_MAX = 1024
"""Bytes that are read of a password file."""
COLLATIONS = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8"})

_SERVER = """
SELECT current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes, pg_is_in_recovery() AS is_standby,
       pg_encoding_to_char(encoding) AS encoding, datcollate AS collation, datlocprovider::text AS provider
FROM pg_database WHERE datname = current_database()
"""

_WHOLE = ""
"""The key under which transactions without keys queue in this process."""
_BUSY_TEXT = "other transactions hold the same data for too long"


def lock_id(service: str, key: str = "") -> int:
    """Return the number of an advisory lock. Without a key it is the service's own lock."""
    name = f"{service}\0{key}" if key else service
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def begin_sql(service: str, locks: Locks, seconds: float, wait: float, statement: float) -> str:
    """Return BEGIN and the locks, as one message to the server.

    Locks are taken in the order of their numbers, so that no deadlock can occur. All of them together take at most
    `seconds`. Afterwards the transaction waits at most `wait` seconds for the lock of a row, and a statement takes at
    most `statement` seconds.
    """
    if locks.is_whole:
        calls = [f"pg_advisory_xact_lock({lock_id(service)})"]
    else:
        shared = dict.fromkeys((lock_id(service, key) for key in locks.reads), "_shared")
        ways = {**shared, **dict.fromkeys((lock_id(service, key) for key in locks.keys), "")}
        calls = [f"pg_advisory_xact_lock_shared({lock_id(service)})"]
        calls += [f"pg_advisory_xact_lock{ways[lock]}({lock})" for lock in sorted(ways)]
    return "; ".join(
        (
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            f"SET LOCAL statement_timeout = {_milliseconds(seconds)}",
            f"SELECT {', '.join(calls)}",
            f"SET LOCAL statement_timeout = {_milliseconds(statement)}",
            f"SET LOCAL lock_timeout = {_milliseconds(wait)}",
        )
    )


def _milliseconds(seconds: float) -> int:
    """Return a time for a setting of the server, where 0 would mean no limit."""
    return max(1, int(seconds * 1000))


class PostgresSession:
    """A connection inside a transaction. One task holds it until commit or rollback gives it back."""

    __slots__ = ("_backend", "_connection", "_queued")

    def __init__(self, backend: PostgresBackend, connection: asyncpg.Connection, queued: tuple[str, ...]) -> None:
        self._backend = backend
        self._connection = connection
        self._queued = queued

    async def run(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a statement inside the transaction.

        Raises:
            TransactionLost: the transaction is over. Otherwise the statement would commit by itself.
        """
        if not self._connection.is_in_transaction():
            raise TransactionLost("the database ended the transaction before its end")
        try:
            return [dict(record) for record in await self._connection.fetch(sql, *args)]
        except DRIVER_ERRORS as error:
            raise fault(error) from cause_of(error)

    async def commit(self) -> None:
        """Commit. The changes are durable when the method returns.

        On an error nothing is kept. Only after OutcomeUnknown is it open whether all or nothing is kept. A cancellation
        leaves all or nothing; the method first waits until that is decided.
        """
        connection = self._connection
        try:
            if not connection.is_in_transaction():
                raise TransactionLost("the database ended the transaction before its end")
            if await connection.execute("COMMIT") != "COMMIT":
                raise TransactionLost("the database rolled the transaction back")
        except BaseException as error:  # also for a cancellation: the connection must come to rest
            await rest(connection)
            if isinstance(error, DRIVER_ERRORS):
                raise unknown(fault(error)) from cause_of(error)
            raise
        finally:
            self._backend.release(connection, self._queued)

    async def rollback(self) -> None:
        """Roll back. When the method returns, the connection is at rest or dropped."""
        try:
            await rest(self._connection)
        finally:
            self._backend.release(self._connection, self._queued)


class PostgresBackend:
    """One PostgreSQL database. One or several processes use it."""

    engine_type: EngineType = "postgres"

    def __init__(self, location: PostgresLocation, service: str, *, patient: bool = False) -> None:
        self._location = location
        self._service = service
        self._patient = patient

    async def open(self) -> None:
        """Make the first connection, which checks that the server can be used. Raises StorageError."""
        self._pool = Pool(self._location.pool, self._connect)
        self._queue = KeyQueue()
        self._outbox = Outbox()
        self._patients = asyncio.Semaphore(max(1, self._location.pool // 2))
        try:
            self._pool.give(await self._pool.take())
        except StorageError as error:
            raise type(error)(f"cannot open the database {self._location}: {error}") from error

    async def close(self) -> None:
        """Send the hints that wait, wait for running transactions, then close the connections."""
        await self._send_last_hints()
        await self._pool.close()

    async def _send_last_hints(self) -> None:
        """Send the hints of the last requests. `listen` ends when the process begins to stop, before these requests."""
        if self._outbox.is_empty:
            return
        try:
            async with asyncio.timeout(LAST_HINTS_SECONDS):
                connection = await self._pool.take()
                try:
                    await self._outbox.send(connection, channel_of(self._service))
                except BaseException:  # also for the time-out: the statement may still run
                    connection.terminate()
                    raise
                finally:
                    self._pool.give(connection)
        except (StorageError, *DRIVER_ERRORS) as error:
            log.warning("cannot send the last hints", extra={"service": self._service, "reason": str(error)})

    def _password(self) -> str:
        name = self._location.password_file
        if not name:
            return ""  # None would make the driver look for a password in the environment and in home directories
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
            return ssl.create_default_context(cafile=name)  # verifies chain and host name
        except (OSError, ssl.SSLError) as error:
            raise StorageError(f"cannot read the database's CA file {name}") from error

    async def connect(self) -> asyncpg.Connection:
        """Return a checked connection outside the pool. The caller closes it. Raises StorageError."""
        return await self._connect()

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
                    "idle_in_transaction_session_timeout": str(
                        _milliseconds(PATIENT_SECONDS if self._patient else IDLE_SECONDS)
                    ),
                    "jit": "off",
                    "lock_timeout": f"{PATIENT_SECONDS if self._patient else WAIT_SECONDS}s",
                    "timezone": "UTC",
                },
            )
        except ValueError as error:
            raise StorageError(f"cannot use the database's address: {error}") from error
        except DRIVER_ERRORS as error:
            raise fault(error) from error
        try:
            await self._check(connection)
        except BaseException as error:  # also for a cancellation
            connection.terminate()
            if isinstance(error, DRIVER_ERRORS):
                raise fault(error) from error
            raise
        return connection

    async def _check(self, connection: asyncpg.Connection) -> None:
        """Refuse a server on which a commit is not durable, or that sorts or stores text in another way."""
        version = connection.get_server_version().major
        if version < SERVER_VERSION_MIN:
            raise StorageError(f"cannot use PostgreSQL {version}: version {SERVER_VERSION_MIN} or later is needed")
        server = await connection.fetchrow(_SERVER)
        if server["is_standby"]:
            raise DatabaseUnavailable("the database server is a standby")
        if server["synchronous_commit"] == "off":
            raise StorageError("cannot use a database with synchronous_commit off: a commit would not be durable")
        for name in ("fsync", "full_page_writes"):
            if self._location.needs_fsync and server[name] != "on":
                raise StorageError(f"cannot use a database server with {name} off: a power cut could destroy it")
        if server["encoding"] != "UTF8" or server["provider"] == "i" or server["collation"] not in COLLATIONS:
            raise StorageError(
                "cannot use this database: make it with ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0 "
                f"(it has {server['encoding']}, {server['collation']})"
            )

    async def begin(self, locks: Locks = WHOLE, patience: float | None = None) -> PostgresSession:
        """Take a connection, begin a transaction, and take its locks.

        Raises:
            DatabaseBusy: transactions that exclude this one, or hold all connections, took longer than the request
                may wait, or than `patience` seconds.
        """
        waits = Waits(PATIENT_SECONDS) if self._patient else current_waits()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._begun(locks, began, waits.left if patience is None else min(waits.left, patience))
        finally:
            waits.spend(loop.time() - began)

    async def _begun(self, locks: Locks, began: float, seconds: float) -> PostgresSession:
        queued = tuple(sorted(set(locks.keys))) or ((_WHOLE,) if locks.is_whole else ())
        try:
            async with asyncio.timeout_at(began + seconds):
                await self._queue.take(queued)
        except TimeoutError as error:
            raise DatabaseBusy("other transactions of this process hold the same data for too long") from error
        try:
            connection = await self._locked(locks, min(QUICK_SECONDS, seconds), seconds)
            if connection is None:
                connection = await self._waited(locks, began + seconds)
        except BaseException:  # also for a cancellation: the next transaction must get its turn
            self._queue.give(queued)
            raise
        return PostgresSession(self, connection, queued)

    async def _waited(self, locks: Locks, deadline: float) -> asyncpg.Connection:
        """Begin on a patient connection. Raises DatabaseBusy at the deadline, a time of the event loop's clock."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                await self._patients.acquire()
        except TimeoutError as error:
            raise DatabaseBusy(_BUSY_TEXT) from error
        try:
            left = deadline - loop.time()
            connection = None if left <= 0 else await self._locked(locks, left, left)
        finally:
            self._patients.release()
        if connection is None:
            raise DatabaseBusy(_BUSY_TEXT)
        return connection

    async def _locked(self, locks: Locks, seconds: float, wait: float) -> asyncpg.Connection | None:
        """Return a connection that has begun and holds the locks; None if the locks were not free in time."""
        if wait <= 0:
            raise DatabaseBusy("the request has waited for the database for too long")
        connection = await self._pool.take(wait)
        statement = PATIENT_SECONDS if self._patient else IDLE_SECONDS
        try:
            await connection.execute(begin_sql(self._service, locks, seconds, wait, statement))
        except BaseException as error:  # also for a cancellation: the connection must be given back
            try:
                await rest(connection)
            finally:
                self._pool.give(connection)
            if isinstance(error, asyncpg.QueryCanceledError):
                return None
            if isinstance(error, DRIVER_ERRORS):
                raise fault(error) from error
            raise
        return connection

    def release(self, connection: asyncpg.Connection, queued: tuple[str, ...]) -> None:
        """Give the connection of a session back, and its keys to the next transaction."""
        self._pool.give(connection)
        self._queue.give(queued)

    async def write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run one statement that commits by itself. Its changes are durable when the method returns.

        Raises:
            OutcomeUnknown: the connection broke meanwhile; all changes of the statement were made, or none.
        """
        return await self._fetch(sql, args, writes=True)

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Run a query. It sees what is committed."""
        return await self._fetch(sql, args, writes=False)

    browse = read

    async def listen(self, took: Took, connected: Connected, stopping: Stopping) -> None:
        """Background task: call `took` with each hint, see `cloud.storage.hints.listen`."""
        await listen(self._service, self._connect, self._outbox, took, connected, stopping)

    def hint(self, text: str) -> None:
        """Have a hint sent by the connection of `listen`."""
        self._outbox.add(text)

    async def _taken(self) -> asyncpg.Connection:
        waits = current_waits()
        began = asyncio.get_running_loop().time()
        try:
            return await self._pool.take(waits.left)
        finally:
            waits.spend(asyncio.get_running_loop().time() - began)

    async def _fetch(self, sql: str, args: tuple[Any, ...], *, writes: bool) -> list[Row]:
        connection = await self._taken()
        try:
            return [dict(record) for record in await connection.fetch(sql, *args)]
        except BaseException as error:  # also for a cancellation: the statement may still run
            if leaves_doubt(error):
                await rest(connection)
            if isinstance(error, DRIVER_ERRORS):
                wrong = fault(error)
                raise (unknown(wrong) if writes else wrong) from cause_of(error)
            raise
        finally:
            self._pool.give(connection)
