"""Errors of the storage port.

    StorageError
    ├── StorageNotOpen       the engine was used before `open` or after `close`
    ├── TransactionMisuse    a transaction was used outside its task, after its end, after a failure, or for a key that
    │                        it does not hold
    ├── TransactionLost      the database ended the transaction by itself (I/O error, idle for too long)
    ├── DatabaseBusy         other transactions held the lock, or all connections, for longer than we wait
    ├── DatabaseUnavailable  the database server does not answer, is starting or stopping, or refuses the connection
    │   ├── OutcomeUnknown   the connection broke during a commit: the whole change was made, or nothing of it
    │   └── DatabaseNotWritable  nothing can be stored: read-only file or server, I/O error
    │       └── DiskFull     nothing can be stored: the disk is full
    ├── DatabaseInUse        the database for a new installation has tables already
    ├── DatabaseRestoring    a restore into the database has not ended
    ├── DatabaseMissing      the database of an installation has no file or no tables
    ├── DatabaseTooNew       the database has migrations that this code does not know
    ├── DatabaseTooOld       the database was made before the first migration that this code has
    ├── MigrationFailed      a migration failed; the database is unchanged
    └── ValueRefused         a value does not fit its column

    IntegrityError           a constraint was violated: not a fault of the database; a store may expect it

The drivers' own exceptions do not leave this package.
"""


class StorageError(Exception):
    """The database cannot do what was requested. No half of a change is kept."""


class StorageNotOpen(StorageError):
    """The engine was used before `open` or after `close`."""


class TransactionMisuse(StorageError):
    """A transaction was used by another task, after its end, after a failure, or for a key that it does not hold."""


class TransactionLost(StorageError):
    """The database rolled the transaction back by itself."""


class DatabaseBusy(StorageError):
    """Other transactions held the lock, or every connection, for too long."""


class DatabaseUnavailable(StorageError):
    """The database server cannot be reached, is starting or stopping, or refuses the connection."""


class OutcomeUnknown(DatabaseUnavailable):
    """The connection broke during a commit. The whole change was made, or nothing of it."""


class DatabaseNotWritable(DatabaseUnavailable):
    """The database answers, and stores nothing: its file or server is read-only, or its disk fails.

    The change was not made. The same call works again once the cause is gone.
    """


class DiskFull(DatabaseNotWritable):
    """The disk of the database is full. The change was not made."""


class DatabaseInUse(StorageError):
    """The database is not empty. Nothing in it was changed."""


class DatabaseMissing(StorageError):
    """The file of the database is missing, or the database has no tables. Nothing was made."""


class DatabaseRestoring(StorageError):
    """A restore into the database was interrupted, or still runs. No service may use the database."""


class DatabaseTooNew(StorageError):
    """The database was written by a newer version of this code."""


class DatabaseTooOld(StorageError):
    """The database was made before the first release. No migration leads from it to this code."""


class MigrationFailed(StorageError):
    """A migration failed and was rolled back."""


class ValueRefused(StorageError):
    """A value does not fit its column: the number is too large, the text too long, or the type wrong."""


class IntegrityError(Exception):
    """A constraint was violated. The statement changed nothing. Inside a transaction, it ends the transaction."""
