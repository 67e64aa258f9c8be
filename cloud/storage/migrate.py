"""Adapter: migrations of a service's database. A service runs the missing migrations when it starts.

A migration is a module `m0001_name.py` in the package `migrations` of its service, with `STEPS`
(`cloud.storage.schema`). Its id is the module name, which begins with a letter for this reason. The table `migration`
records the ids of the migrations that have run.

All missing migrations run in one transaction, together with their records, so a crash leaves the old schema. Replicas
that start at the same time on one PostgreSQL database take turns: the second one finds nothing to do.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from piccolo.columns import Timestamptz, Varchar

from cloud.storage.engine import ServiceEngine
from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseRestoring,
    DatabaseTooNew,
    DatabaseTooOld,
    DatabaseUnavailable,
    MigrationFailed,
)
from cloud.storage.location import Location
from cloud.storage.schema import Step, add_table
from cloud.storage.statement import Statement

TABLE_LOCK_SECONDS = 5
"""Seconds for which a migration waits for a table in use. Other users of the table queue behind the migration
meanwhile."""

_ADD_RECORDS = add_table("migration", name=Varchar(length=64, primary_key=True), ran_at=Timestamptz())
# SQL by hand, because the catalog is not a table of ours, and the database itself sets `ran_at`.
_HAS_RECORDS = {
    "sqlite": Statement("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migration'"),
    "postgres": Statement("SELECT 1 FROM pg_tables WHERE tablename = 'migration' AND schemaname = current_schema()"),
}
RESTORING = "restoring"
"""The table that marks a database into which a restore has not ended (`cloud.storage.whole.loading`)."""
_IS_RESTORING = {
    "sqlite": Statement(f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{RESTORING}'"),  # noqa: S608
    "postgres": Statement(
        f"SELECT 1 FROM pg_tables WHERE tablename = '{RESTORING}' AND schemaname = current_schema()"  # noqa: S608
    ),
}
_APPLIED = Statement("SELECT name FROM migration ORDER BY name LIMIT 10000")
_RECORD = Statement("INSERT INTO migration (name) VALUES ({name})")


def package_of(service: str) -> str:
    """Return the package of a service: `fabric` is `cloud.fabric`. A dotted name is returned unchanged."""
    return service if "." in service else f"cloud.{service}"


def known_ids(service: str) -> set[str]:
    """Return the ids of the migrations that the code has."""
    package = importlib.import_module(f"{package_of(service)}.migrations")
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


async def applied_ids(location: Location) -> set[str]:
    """Return the ids that the database has recorded. Without a file there are none. Raises StorageError."""
    if isinstance(location, Path) and not location.exists():
        return set()
    async with _opened("migrate", location) as engine:
        return await _applied(engine)


async def missing_ids(service: str, location: Location, engine: ServiceEngine) -> list[str]:
    """Return the migrations that a start of the service would run. Changes nothing.

    Raises DatabaseTooOld, DatabaseTooNew, and StorageError.
    """
    return _missing(service, await _applied(engine), location)


async def ensure_migrated(service: str, location: Location) -> bool:
    """Bring the database to the schema of the code. Return True if a migration ran.

    Raises:
        DatabaseTooNew: the database has migrations that the code does not know.
        DatabaseTooOld: no migration leads from the database to the code.
        MigrationFailed: a migration failed; nothing was changed.
        StorageError: the database cannot be used, or was busy for too long.
    """
    async with _opened(f"migrate_{service}", location) as engine:
        if not _missing(service, await _applied(engine), location):
            return False
        async with engine.transaction():  # excludes other replicas that start
            if engine.engine_type == "postgres":
                await engine.run_ddl(f"SET LOCAL lock_timeout = '{TABLE_LOCK_SECONDS}s'")
            missing = _missing(service, await _applied(engine), location)
            for name in missing:
                await _migrate(service, name, engine)
    return bool(missing)


@asynccontextmanager
async def _opened(name: str, location: Location) -> AsyncIterator[ServiceEngine]:
    engine = ServiceEngine(name)
    engine.configure(location, patient=True)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def is_restoring(engine: ServiceEngine) -> bool:
    """Whether a restore into the database has not ended. Raises StorageError."""
    return bool(await engine.fetch(_IS_RESTORING[engine.engine_type]))


async def migrate_to(service: str, ids: Sequence[str], engine: ServiceEngine) -> None:
    """Make the schema of exactly these migrations in an empty database, in the task's transaction.

    Raises MigrationFailed, and StorageError.
    """
    for name in sorted(ids):
        await _migrate(service, name, engine)


async def migrate_on(service: str, location: Location, engine: ServiceEngine) -> list[str]:
    """Run the missing migrations in the task's transaction, also while the database is marked. Return their ids.

    Raises MigrationFailed, and StorageError.
    """
    missing = _missing(service, await _recorded(engine), location)
    for name in missing:
        await _migrate(service, name, engine)
    return missing


async def _applied(engine: ServiceEngine) -> set[str]:
    """Return the ids that the database has recorded. Raises DatabaseRestoring, StorageError."""
    if await is_restoring(engine):
        raise DatabaseRestoring(
            "cannot use the database: a restore into it has not ended; repeat `cascade restore`, or empty the database"
        )
    return await _recorded(engine)


async def _recorded(engine: ServiceEngine) -> set[str]:
    if not await engine.fetch(_HAS_RECORDS[engine.engine_type]):
        return set()
    return {str(row["name"]) for row in await engine.fetch(_APPLIED)}


def _missing(service: str, applied: set[str], location: Location) -> list[str]:
    """Return the migrations that have not run yet, in order. Raises DatabaseTooOld, DatabaseTooNew."""
    known = known_ids(service)
    unknown = applied - known
    if any(not name.isidentifier() for name in unknown):  # before the first release, Piccolo named migrations by dates
        raise DatabaseTooOld(
            f"cannot use {location}: it was made before the first release, and no migration leads from there to this "
            "version; make a new installation with `cascade init`, in an empty directory and with empty databases"
        )
    if unknown:
        raise DatabaseTooNew(
            f"cannot use {location}: it was written by a newer version (unknown migration {max(unknown)}); "
            "run that version or restore the database that belongs to this one"
        )
    return sorted(known - applied)


async def _migrate(service: str, name: str, engine: ServiceEngine) -> None:
    """Run one migration and record it, in the task's transaction. Raises MigrationFailed."""
    try:
        steps: tuple[Step, ...] = importlib.import_module(f"{package_of(service)}.migrations.{name}").STEPS
        if not await engine.fetch(_HAS_RECORDS[engine.engine_type]):
            await _ADD_RECORDS(engine)
        for step in steps:
            await step(engine)
        await engine.fetch(_RECORD, name=name)
    except (DatabaseBusy, DatabaseUnavailable) as error:
        raise type(error)(
            f"cannot migrate the database of {service} ({name}), and nothing was changed: {error}; end transactions that "
            "use its tables, then start again"
        ) from error
    except Exception as error:  # also for a mistake in a step: the error must name the migration
        raise MigrationFailed(f"cannot migrate the database of {service} ({name}): {error}") from error
