"""Faults of the storage port.

    StorageError
    ├── StorageNotOpen       the engine was used before `open` or after `close`
    ├── TransactionMisuse    a transaction was used outside its task, after its end, or after an inner failure
    ├── TransactionLost      the database ended the transaction by itself (disk full, I/O error)
    ├── DatabaseBusy         another process held the write lock for longer than we wait
    ├── DatabaseTooNew       the file has migrations that this code does not know
    └── MigrationFailed      a migration did not run; the database is as it was

Constraint violations are not here: they reach the store as `IntegrityError`, which a store may expect.
"""

import sqlite3

IntegrityError = sqlite3.IntegrityError


class StorageError(Exception):
    """The database cannot do what was asked; nothing half done is kept."""


class StorageNotOpen(StorageError):
    """The engine was used before `open` or after `close`."""


class TransactionMisuse(StorageError):
    """A transaction was used by another task, after its end, or after an inner block had failed."""


class TransactionLost(StorageError):
    """The database rolled the transaction back by itself."""


class DatabaseBusy(StorageError):
    """Another process held the write lock for too long."""


class DatabaseTooNew(StorageError):
    """The database was written by a newer version of this code."""


class MigrationFailed(StorageError):
    """A migration did not run; it was rolled back."""
