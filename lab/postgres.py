"""Real parts: databases of a developer's machine, on both engines: SQLite files, and a private PostgreSQL server.

The server starts when a process first asks for a database. It listens on a Unix socket only and commits durably. It
ends with the process, also when the process is killed.

A database with the tables of a service is a copy of a template, which is migrated once. A PostgreSQL database is lent:
its borrower has it until the process calls `give_back` (tests do, after each test). The next borrower of the same
template gets the same database, reset in place. A reset empties the used tables and writes the template's rows again;
it costs a fraction of `CREATE DATABASE`.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from cloud.storage import Location, PostgresLocation, ServiceEngine, Statement
from cloud.storage.location import parse_location
from cloud.storage.migrate import ensure_migrated
from cloud.storage.whole.loading import continue_numbers

START_SECONDS = 30.0
ROLE = "cascade"
SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "16MB",
    "max_wal_size": "256MB",
    "max_connections": "60",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    # After a crash, one call instead of an fsync of every file.
    "recovery_init_sync_method": "syncfs",
}


_SHAPE = """
    SELECT md5(string_agg(concat_ws(' ', c.relname, c.relkind, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid), pg_get_indexdef(i.indexrelid)), ',' ORDER BY c.relname, a.attnum))
    FROM pg_class c
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace"""
"""A digest of tables, columns, defaults and indexes."""


class _Template:
    """A filled database, the statement that resets a copy of it, and the copies that are not lent."""

    def __init__(self, name: str, reset: str) -> None:
        self.name = name
        self.reset = reset
        self.free: list[PostgresLocation] = []


async def _reset_statement(connection: Any) -> str:
    """One statement that makes a used copy of the connected database equal to it again.

    The statement ends every other connection first. It fails when the copy's tables no longer have the template's
    shape. It truncates only tables that have pages, so unused tables cost nothing.
    """
    shape = await connection.fetchval(_SHAPE)
    tables = [row[0] for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    rows = {table: await connection.fetchval(f"SELECT json_agg(t)::text FROM {table} t") for table in tables}  # noqa: S608  a name of our schema
    restores = [
        f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, {_quoted(text)});"  # noqa: S608  as above
        for table, text in rows.items()
        if text is not None
    ]
    numbers = []
    for sequence in await connection.fetch("SELECT sequencename AS name FROM pg_sequences WHERE schemaname = 'public'"):
        at = await connection.fetchrow(f"SELECT last_value, is_called FROM {sequence['name']}")  # noqa: S608  as above
        numbers.append(f"PERFORM setval('{sequence['name']}', {at['last_value']}, {at['is_called']});")
    lock = f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE;" if tables else ""
    body = f"""
DECLARE used text;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    {lock}
    IF ({_SHAPE}) IS DISTINCT FROM {f"'{shape}'" if shape else "NULL"} THEN
        RAISE 'the tables have changed';
    END IF;
    SELECT string_agg(oid::regclass::text, ', ') INTO used FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0;
    IF used IS NOT NULL THEN
        EXECUTE 'TRUNCATE ' || used || ' RESTART IDENTITY';
    END IF;
    {" ".join((*restores, *numbers))}
END"""  # noqa: S608  as above
    return f"DO {_quoted(body)}"


def _quoted(text: str) -> str:
    """A string literal of SQL."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def binaries() -> Path:
    """The programs of the newest PostgreSQL on this machine. Raises AssertionError if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    assert found, "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    return found[-1].parent


def _as_server() -> list[str]:
    """The words before a server's command: it does not run as root, and it ends with the thread that started it."""
    mine = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() != 0:
        return mine
    return [*mine, "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]


class Cluster:
    """One server. Its data and its socket are in a temporary folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cascade-pg-", dir="/tmp"))
        # The pipe closes when this process ends, also without exit handlers (SIGKILL, a worker of xdist).
        sweep = ["sh", "-c", 'read _; rm -rf "$1" || { sleep 2; rm -rf "$1"; }', "sh", str(self.folder)]
        self._sweeper = subprocess.Popen(
            sweep, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._data = self.folder / "data"
        self._numbers = count(1)
        self._templates: dict[str, _Template] = {}
        self._lent: list[tuple[_Template, PostgresLocation]] = []
        self._process: subprocess.Popen[bytes] | None = None
        command = ["initdb", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8", f"--username={ROLE}"]
        self._run([*command, "-D", str(self._data)])
        self.start()
        atexit.register(self.remove)

    def _run(self, command: list[str]) -> None:
        program = [*_as_server(), str(binaries() / command[0]), *command[1:]]
        done = subprocess.run(program, cwd="/", capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def start(self, **settings: str) -> None:
        """Start the server with the given settings, and wait until it answers."""
        self.launch(**settings)
        self.wait()

    def launch(self, **settings: str) -> None:
        """Start the server. It ends with the calling thread, so call it in a thread that stays."""
        options = [part for name, value in {**SETTINGS, **settings}.items() for part in ("-c", f"{name}={value}")]
        program = [str(binaries() / "postgres"), "-D", str(self._data), "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*_as_server(), *program], cwd="/", stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until the server answers. Do not call it in the thread of an event loop."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return asyncio.run(self._execute("SELECT 1"))
            except (OSError, asyncpg.PostgresError) as error:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()) from error
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server. SIGINT disconnects the clients first; SIGQUIT leaves the data as after a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    def remove(self) -> None:
        """End the server and remove its files."""
        atexit.unregister(self.remove)
        self.stop(signal.SIGQUIT)
        self._sweeper.communicate()

    @asynccontextmanager
    async def _connected(self, database: str) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(host=str(self.folder), user=ROLE, database=database, timeout=5)
        try:
            yield connection
        finally:
            await connection.close()

    async def _execute(self, *statements: str, database: str = "postgres") -> None:
        async with self._connected(database) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def _describe(self, database: str) -> str:
        async with self._connected(database) as connection:
            return await _reset_statement(connection)

    def administer(self, *statements: str) -> None:
        """Run statements as the administrator. Do not call it in the thread of an event loop."""
        asyncio.run(self._execute(*statements))

    def rows(self, name: str, query: str) -> list[dict[str, Any]]:
        """Rows of a database. Do not call it in the thread of an event loop."""

        async def fetched() -> list[dict[str, Any]]:
            async with self._connected(name) as connection:
                return [dict(row) for row in await connection.fetch(query)]

        return asyncio.run(fetched())

    def location(self, name: str) -> PostgresLocation:
        """The address of a database."""
        return PostgresLocation(host=str(self.folder), name=name, user=ROLE)

    def create(self, template: str = "template0", *options: str) -> PostgresLocation:
        """Make a database; return its address."""
        name = f"test_{next(self._numbers)}"
        self.administer(" ".join((f"CREATE DATABASE {name} TEMPLATE {template}", *options)))
        return self.location(name)

    def copy_of(self, key: str, fill: Callable[[PostgresLocation], object]) -> PostgresLocation:
        """Lend a database as `fill` leaves an empty one. `fill` runs once a `key`."""
        if key not in self._templates:
            made = self.create()
            fill(made)
            self._templates[key] = _Template(made.name, asyncio.run(self._describe(made.name)))
        template = self._templates[key]
        location = self._reused(template) or self.create(template.name)
        self._lent.append((template, location))
        return location

    def _reused(self, template: _Template) -> PostgresLocation | None:
        """A free copy, reset. A copy that cannot be reset, because a test changed its tables, is dropped."""
        while template.free:
            location = template.free.pop()
            try:
                asyncio.run(self._execute(template.reset, database=location.name))
            except (asyncpg.RaiseError, asyncpg.UndefinedTableError):
                self.drop(location)
            else:
                return location
        return None

    def give_back(self) -> None:
        """Take back every lent database. No borrower may use one afterwards."""
        for template, location in self._lent:
            template.free.append(location)
        self._lent.clear()

    def drop(self, location: PostgresLocation) -> None:
        """Remove a database, also while it is in use."""
        self._lent = [lent for lent in self._lent if lent[1] != location]
        self.administer(f"DROP DATABASE {location.name} WITH (FORCE)")


@cache
def cluster() -> Cluster:
    """The server of this test process. Call it in the main thread: the server ends with the thread that started it."""
    return Cluster()


def give_back() -> None:
    """Take back every database that this process has lent."""
    if cluster.cache_info().currsize:
        cluster().give_back()


def migrate(service: str, location: Location) -> None:
    """Migrate a database in a new thread, because the caller may be in an event loop."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(ensure_migrated(service, location))).result()


def postgres_database(service: str) -> PostgresLocation:
    """A migrated, empty database of a service, lent until `give_back`."""
    return cluster().copy_of(service, lambda location: migrate(service, location))


@cache
def _migrated_file(service: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "database.sqlite"
        migrate(service, path)
        return path.read_bytes()


def sqlite_database(service: str, folder: Path) -> Path:
    """A migrated, empty SQLite file of a service, `NAME.sqlite` in `folder`."""
    path = folder / f"{service.rpartition('.')[2]}.sqlite"
    path.write_bytes(_migrated_file(service))
    return path


def database_location(engine: str, service: str, folder: Path) -> Location:
    """A migrated, empty database of a service on either engine. `folder` is where a SQLite file goes."""
    return postgres_database(service) if engine == "postgresql" else sqlite_database(service, folder)


def postgres_copy(service: str, path: Path) -> PostgresLocation:
    """A database with the rows of a migrated SQLite file, lent until `give_back`. The file must not change meanwhile."""
    return cluster().copy_of(f"{service} {path}", lambda location: fill(service, location, path))


def fill(service: str, location: PostgresLocation, path: Path) -> None:
    """Migrate an empty database, and copy the rows of a migrated SQLite file into it."""
    migrate(service, location)
    asyncio.run(_copy_rows(path, location))


def copy_database(engine: str, service: str, path: Path, folder: Path) -> None:
    """Copy a migrated SQLite file to a database on either engine. `located` returns its address."""
    if engine == "postgresql":
        (folder / f"{service}.postgresql").write_text(str(postgres_copy(service, path)))
    else:
        shutil.copy(path, folder / f"{service}.sqlite")


def located(folder: Path, service: str) -> Location:
    """The address of the copy that `copy_database` made."""
    address = folder / f"{service}.postgresql"
    return parse_location(address.read_text()) if address.exists() else folder / f"{service}.sqlite"


async def _copy_rows(path: Path, location: PostgresLocation) -> None:
    source, target = ServiceEngine("source"), ServiceEngine("target")
    source.configure(path)
    target.configure(location)
    await source.open()
    await target.open()
    try:
        listed = Statement("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for table in [str(row["name"]) for row in await source.fetch(listed)]:
            if table == "migration":
                continue
            async with target.transaction():
                for row in await source.fetch(Statement(f"SELECT * FROM {table}")):  # noqa: S608  a name of our schema
                    places = ", ".join(f"{{{name}}}" for name in row)
                    into = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"  # noqa: S608  as above
                    await target.fetch(Statement(into), **row)
        await continue_numbers(target)
    finally:
        await source.close()
        await target.close()
