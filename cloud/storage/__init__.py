"""The storage engine port: what a service's tables, stores and migrations stand on.

A service makes one `ServiceEngine` at import, in its `tables.py`, and configures it when it starts. Stores speak
to the engine only; which database stands behind it, SQLite or PostgreSQL, is known in this package alone.
"""

from cloud.storage.engine import ServiceEngine
from cloud.storage.errors import (
    DatabaseTooNew,
    DatabaseUnavailable,
    IntegrityError,
    StorageError,
    StorageNotOpen,
    TransactionMisuse,
)
from cloud.storage.location import Location, PostgresLocation
from cloud.storage.statement import Row, Statement

__all__ = [
    "DatabaseTooNew",
    "DatabaseUnavailable",
    "IntegrityError",
    "Location",
    "PostgresLocation",
    "Row",
    "ServiceEngine",
    "Statement",
    "StorageError",
    "StorageNotOpen",
    "TransactionMisuse",
]
