"""Port: the database of a service. It has the engine, the statements, and the object that tables are bound to.

Wiring makes one `ServiceEngine` for each service of a process and gives it to the stores. Tables are bound to
`UNBOUND`, which names a dialect and no database. Stores compile their queries at import and run them with the engine.
Only this package knows whether the database is SQLite or PostgreSQL.
"""

from cloud.storage.compiled import (
    compiled,
    excluded,
    exists,
    filtered,
    insert_if,
    insert_into,
    literal,
    missing,
    param,
    params,
    sql,
    value_of,
)
from cloud.storage.dialect import UNBOUND
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
from cloud.storage.mapper import Mapper, json_text
from cloud.storage.statement import Row, Statement

__all__ = [
    "UNBOUND",
    "DatabaseTooNew",
    "DatabaseUnavailable",
    "IntegrityError",
    "Location",
    "Mapper",
    "PostgresLocation",
    "Row",
    "ServiceEngine",
    "Statement",
    "StorageError",
    "StorageNotOpen",
    "TransactionMisuse",
    "compiled",
    "excluded",
    "exists",
    "filtered",
    "insert_if",
    "insert_into",
    "json_text",
    "literal",
    "missing",
    "param",
    "params",
    "sql",
    "value_of",
]
