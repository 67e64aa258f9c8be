"""Pure functions: turn an exception of PostgreSQL's driver into an error of the storage port."""

import os

import asyncpg

from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseNotWritable,
    DatabaseUnavailable,
    DiskFull,
    IntegrityError,
    OutcomeUnknown,
    StorageError,
    TransactionLost,
    ValueRefused,
)

_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # after a connection was ended between statements, for example
    OSError,
)
_NOT_WRITABLE = (
    asyncpg.ReadOnlySQLTransactionError,  # the server became a standby, or the database is read-only
    asyncpg.InsufficientResourcesError,  # SQLSTATE class 53: memory, temporary files
    asyncpg.PostgresSystemError,  # SQLSTATE class 58: I/O errors
    asyncpg.DataCorruptedError,
    asyncpg.IndexCorruptedError,
)
_BUSY = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,  # a statement inside a transaction took too long
)


def fault(error: BaseException) -> Exception:
    """Turn a driver's exception into an exception of this package.

    Messages contain the first line of the server's message, which has no value of a row.
    """
    first = _described(error)
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return IntegrityError(first)
    if isinstance(error, asyncpg.DataError | ValueError):  # asyncpg's client-side DataError is a ValueError
        return ValueRefused("a value does not fit its column")
    if isinstance(error, _BUSY):
        return DatabaseBusy(f"the database is busy: {first}")
    if isinstance(error, asyncpg.IdleInTransactionSessionTimeoutError):
        return TransactionLost("the database ended a transaction that was idle for too long")
    if isinstance(error, asyncpg.DiskFullError):
        return DiskFull(f"the database's disk is full: {first}")
    if isinstance(error, _NOT_WRITABLE) and not isinstance(error, _AWAY):
        return DatabaseNotWritable(f"the database stores nothing: {first}")
    if isinstance(error, _AWAY):
        return DatabaseUnavailable(f"the database is not available: {first}")
    return StorageError(f"the database refused a statement: {first}")


def _described(error: BaseException) -> str:
    """Return the cause in words. A refused connection and a time-out have none of their own."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionError) and error.errno is not None:
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error.args[0]) if error.args else type(error).__name__


def leaves_doubt(error: BaseException) -> bool:
    """Return whether a connection must be brought to rest after this exception of a statement."""
    return not isinstance(error, asyncpg.PostgresError) or isinstance(error, (*_AWAY, *_NOT_WRITABLE))


def unknown(error: Exception) -> Exception:
    """Return OutcomeUnknown for a connection that broke during a commit, or the error itself."""
    if type(error) is DatabaseUnavailable:
        return OutcomeUnknown(f"{error}; the change was made as a whole or not at all")
    return error


def cause_of(error: BaseException) -> BaseException | None:
    """Return None if the driver's message shows the refused value, which may be a secret.

    Otherwise return the error.
    """
    return None if isinstance(error, ValueError | asyncpg.DataError) else error
