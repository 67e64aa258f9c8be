"""Adapter: the engine that Piccolo's tables are bound to. It names a dialect for SQL and DDL, and no database.

    class Node(Table, db=UNBOUND, tablename="node"): ...

`cloud.storage.compiled` compiles the queries, and the engine that a store was given runs them. So one process can have
several engines of one service.
"""

from typing import Any, NoReturn

from piccolo.engine.base import Engine

from cloud.storage.errors import StorageError
from cloud.storage.statement import EngineType


class Dialect(Engine[Any]):
    """Names a dialect to Piccolo. Every method that would run something is refused."""

    def __init__(self, engine_type: EngineType) -> None:
        # Engine.__init__ is not called, because it asks the database for its version.
        self.engine_type = engine_type

    def _refuse(self) -> NoReturn:
        raise StorageError("cannot run a query on a table: compile the query and run it with an engine")

    async def run_querystring(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._refuse()

    async def run_ddl(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._refuse()

    async def batch(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._refuse()

    def transaction(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._refuse()

    def atomic(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._refuse()

    async def get_version(self) -> NoReturn:
        """Refused."""
        self._refuse()

    def get_version_sync(self) -> NoReturn:
        """Refused."""
        self._refuse()

    async def prep_database(self) -> NoReturn:
        """Refused."""
        self._refuse()


UNBOUND = Dialect("postgres")
"""The dialect of every table. For PostgreSQL, Piccolo writes RETURNING and ON CONFLICT without asking a database.
SQLite reads the same text."""
