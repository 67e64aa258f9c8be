"""Pure functions: turn an exception of SQLite's driver into an error of the storage port."""

import sqlite3

from cloud.storage.errors import DatabaseBusy, DatabaseNotWritable, DatabaseUnavailable, DiskFull, StorageError

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
