"""Faults of the storage port.

    StorageError
    ├── StorageNotOpen       the engine was used before `open` or after `close`
    ├── TransactionMisuse    a transaction was used outside its task, after its end, after a failure, or for a key it
    │                        does not hold
    ├── TransactionLost      the database ended the transaction by itself (disk full, I/O error, idle for too long)
    ├── DatabaseBusy         the lock, or a connection, was held by others for longer than we wait
    ├── DatabaseUnavailable  the database server is away, is going down, or does not let us in
    │   └── OutcomeUnknown   it went away while it committed: the whole change is kept, or nothing of it
    ├── DatabaseInUse        a database that was to be a new installation's has tables already
    ├── DatabaseTooNew       the database has migrations that this code does not know
    ├── DatabaseTooOld       the database was made before the first migration that this code has
    ├── MigrationFailed      a migration did not run; the database is as it was
    └── ValueRefused         a value does not fit its column

    IntegrityError           a constraint was violated: no fault of the database, and a store may expect it

The drivers' own exceptions do not leave this package.
"""


class StorageError(Exception):
    """The database cannot do what was asked; nothing half done is kept."""


class StorageNotOpen(StorageError):
    """The engine was used before `open` or after `close`."""


class TransactionMisuse(StorageError):
    """A transaction was used by another task, after its end, after something in it had failed, or beyond its keys."""


class TransactionLost(StorageError):
    """The database rolled the transaction back by itself."""


class DatabaseBusy(StorageError):
    """Others held the lock, or every connection, for too long."""


class DatabaseUnavailable(StorageError):
    """The database server cannot be reached, is starting or stopping, or refuses the connection."""


class OutcomeUnknown(DatabaseUnavailable):
    """The connection was lost while a change was being committed: it is kept whole, or not at all."""


class DatabaseInUse(StorageError):
    """The database is not empty; nothing in it was changed."""


class DatabaseTooNew(StorageError):
    """The database was written by a newer version of this code."""


class DatabaseTooOld(StorageError):
    """The database was made before the first release; no migration leads from it to this code."""


class MigrationFailed(StorageError):
    """A migration did not run; it was rolled back."""


class ValueRefused(StorageError):
    """A value does not fit its column: too large a number, too long a text, a type that the column does not have."""


class IntegrityError(Exception):
    """A constraint was violated. The statement did nothing; inside a transaction, it ends the transaction."""
