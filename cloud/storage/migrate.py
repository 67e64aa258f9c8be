"""Migrations of a service's database: real Piccolo migrations, run by one subprocess per service.

`ensure_migrated` is what a start calls: it compares ids in the database and in the service's folder with plain SQL
and file reading (about a millisecond) and starts the subprocess only when something is missing. Piccolo finds
engine and tables through module state, which is why this never runs in the process that serves.

All missing migrations run in one transaction together with the record that they ran: a crash leaves the old schema.
Replicas that start together on one PostgreSQL run them one after the other: the second finds nothing left to do.

As a program:
    python -m cloud.storage.migrate SERVICE LOCATION    run what is missing
    python -m cloud.storage.migrate new SERVICE NAME    write a migration from the difference to tables.py

LOCATION is a path, or `postgresql://USER@HOST:PORT/NAME?password_file=FILE` (`?host=DIRECTORY` for a socket): never
with the password in it, since other processes can read a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import io
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cloud.storage.errors import DatabaseTooNew, IntegrityError, MigrationFailed, StorageError
from cloud.storage.location import Location, PostgresLocation, parse_location

if TYPE_CHECKING:
    from cloud.storage.engine import ServiceEngine

MIGRATE_SECONDS_MAX = 300
"""A migration that takes longer has to be written as steps."""
TABLE_LOCK_SECONDS = 5
"""How long a migration waits for a table in use: whoever wants the table meanwhile waits behind it."""
_ID_LINE = re.compile(r"""^ID\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_CONF_MODULE = "cascade_piccolo_conf"


def package_of(service: str) -> str:
    """The package of a service: `fabric` is `cloud.fabric`; a dotted name is taken as it is."""
    return service if "." in service else f"cloud.{service}"


def migrations_folder(service: str) -> Path:
    """The folder of a service's migrations, found without importing its tables."""
    spec = importlib.util.find_spec(package_of(service))
    if spec is None or spec.origin is None:
        raise StorageError(f"cannot find the service {service}")
    return Path(spec.origin).parent / "piccolo_migrations"


def known_ids(service: str) -> set[str]:
    """The ids of the migrations that the code has."""
    ids: set[str] = set()
    for file in migrations_folder(service).glob("*.py"):
        match = _ID_LINE.search(file.read_text("utf-8"))
        if match is not None:
            ids.add(match.group(1))
    return ids


_HAS_MIGRATIONS = "SELECT 1 FROM pg_tables WHERE tablename = 'migration' AND schemaname = current_schema() LIMIT 1"
_APPLIED = "SELECT name FROM migration"


def applied_ids(location: Location) -> set[str]:
    """The ids that the database says have run; none for a file that does not exist.

    It waits for a server in an event loop of its own: call it in a thread where one is running.
    """
    if isinstance(location, PostgresLocation):
        return asyncio.run(_applied_at_server(location))
    return _applied_in_file(location)


async def _applied_at_server(location: PostgresLocation) -> set[str]:
    from cloud.storage.postgres import PostgresBackend

    backend = PostgresBackend(location, "migrate")
    await backend.open()
    try:
        if not await backend.read(_HAS_MIGRATIONS, ()):
            return set()
        return {str(row["name"]) for row in await backend.read(_APPLIED, ())}
    finally:
        await backend.close()


def _applied_in_file(path: Path) -> set[str]:
    if not path.exists():
        return set()
    connection = sqlite3.connect(path)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migration'").fetchall():
            return set()
        return {str(row[0]) for row in connection.execute(_APPLIED)}
    except sqlite3.Error as error:
        raise StorageError(f"cannot read the database {path}: {error}") from error
    finally:
        connection.close()


def missing_ids(service: str, location: Location) -> set[str]:
    """The migrations that have not run yet.

    Raises:
        DatabaseTooNew: the database has run one that this code does not have.
    """
    known, applied = known_ids(service), applied_ids(location)
    unknown = applied - known
    if unknown:
        raise DatabaseTooNew(
            f"cannot use {location}: it was written by a newer version (unknown migration {max(unknown)}); "
            "run that version or restore the database that belongs to this one"
        )
    return known - applied


def ensure_migrated(service: str, location: Location) -> bool:
    """Bring the database to the schema of the code, in a subprocess; True if there was something to do.

    Raises:
        DatabaseTooNew: the database is ahead of the code.
        MigrationFailed: nothing was changed; the message ends with the subprocess's own words.
    """
    if not missing_ids(service, location):
        return False
    roots = [entry or "." for entry in sys.path]
    result = subprocess.run(
        [sys.executable, "-m", "cloud.storage.migrate", service, str(location)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        timeout=MIGRATE_SECONDS_MAX,
        check=False,
    )
    if result.returncode != 0:
        raise MigrationFailed(f"cannot migrate {location}: {result.stderr.strip()[-2000:]}")
    return True


def _piccolo_setup(service: str, location: Location) -> tuple[ModuleType, ServiceEngine]:
    """Give Piccolo its module state: an engine on `location` and this one app. For the subprocess only."""
    from piccolo.conf.apps import AppRegistry

    from cloud.storage.engine import ServiceEngine

    engine = ServiceEngine(f"migrate_{service}")
    engine.configure(location, patient=True)
    conf = ModuleType(_CONF_MODULE)
    conf.DB = engine  # type: ignore[attr-defined]  # what Piccolo looks for in a module
    sys.modules[_CONF_MODULE] = conf
    os.environ["PICCOLO_CONF"] = _CONF_MODULE
    app = f"{package_of(service)}.piccolo_app"
    conf.APP_REGISTRY = AppRegistry(apps=[app])  # type: ignore[attr-defined]  # what Piccolo looks for in a module
    return importlib.import_module(app), engine


async def _forwards(service: str, location: Location) -> None:
    from piccolo.apps.migrations.commands.forwards import ForwardsMigrationManager

    app, engine = _piccolo_setup(service, location)
    await engine.open()
    try:
        async with engine.transaction():  # alone: another starter waits here
            if engine.engine_type == "postgres":
                await engine.run_ddl(f"SET LOCAL lock_timeout = '{TABLE_LOCK_SECONDS}s'")
            result = await ForwardsMigrationManager(app_name=app.APP_CONFIG.app_name).run()
            if not result.success:
                raise MigrationFailed(result.message or "a migration failed")
    finally:
        await engine.close()


def _new(service: str, name: str) -> Path:
    """A developer's command: it needs ruff, which is not shipped."""
    from piccolo.apps.migrations.commands.new import _create_new_migration

    app, _ = _piccolo_setup(service, Path(os.devnull))
    folder = migrations_folder(service)
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    made = _create_new_migration(app_config=app.APP_CONFIG, auto=True, description=name, auto_input="y")
    path = Path(asyncio.run(made).migration_path)
    path.write_text(
        path.read_text("utf-8").replace("async def forwards():", "async def forwards() -> MigrationManager:")
    )
    for tidy in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *tidy, str(path)], check=True)
    return path


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring. Exit status 0, 2 usage, 70 failed."""
    if len(arguments) == 3 and arguments[0] == "new":
        sys.stdout.write(f"{_new(arguments[1], arguments[2])}\n")
        return 0
    if len(arguments) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    try:
        service, location = arguments[0], parse_location(arguments[1])
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        missing_ids(service, location)
        with contextlib.redirect_stdout(io.StringIO()):  # Piccolo prints its progress
            asyncio.run(_forwards(service, location))
    except (StorageError, IntegrityError) as error:
        sys.stderr.write(f"{error}\n")
        return 70
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
