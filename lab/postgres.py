"""Databases of a developer's machine, on both engines: SQLite files, and a private PostgreSQL that is real in all but size.

The server starts with the first database that is wanted, once a process, on a Unix socket alone, with durable commits.
It ends with the process, however that ends. A database costs a copy of a template that was migrated once.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path

import asyncpg

from cloud.storage import Location, PostgresLocation, ServiceEngine, Statement
from cloud.storage.location import parse_location
from cloud.storage.migrate import ensure_migrated

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
}


def binaries() -> Path:
    """The newest PostgreSQL of this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    assert found, "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    return found[-1].parent


def _as_server() -> list[str]:
    """The server refuses root; and it ends when the thread that started it does, even by SIGKILL."""
    mine = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() != 0:
        return mine
    return [*mine, "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]


class Cluster:
    """One server with its own data and socket, in a folder of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cascade-pg-", dir="/tmp"))
        # Its end of the pipe closes with this process, also where no exit handler runs (SIGKILL, a worker of xdist).
        sweep = ["sh", "-c", 'read _; rm -rf "$1" || { sleep 2; rm -rf "$1"; }', "sh", str(self.folder)]
        self._sweeper = subprocess.Popen(
            sweep, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._data = self.folder / "data"
        self._numbers = count(1)
        self._templates: dict[str, str] = {}
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
        """Start the server, with other settings if given, and wait until it answers."""
        self.launch(**settings)
        self.wait()

    def launch(self, **settings: str) -> None:
        """Start the server. Call it in a thread that lives on: the server ends with it."""
        options = [part for name, value in {**SETTINGS, **settings}.items() for part in ("-c", f"{name}={value}")]
        program = [str(binaries() / "postgres"), "-D", str(self._data), "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*_as_server(), *program], cwd="/", stdout=log, stderr=log)

    def wait(self) -> None:
        """Until the server answers. Not in an event loop's thread."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return asyncio.run(self._execute("SELECT 1"))
            except (OSError, asyncpg.PostgresError) as error:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()) from error
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: the clients are sent away; SIGQUIT: as after a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    def remove(self) -> None:
        """End the server and take its files away."""
        atexit.unregister(self.remove)
        self.stop(signal.SIGQUIT)
        self._sweeper.communicate()

    async def _execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(host=str(self.folder), user=ROLE, database="postgres", timeout=5)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def administer(self, *statements: str) -> None:
        """Run statements as the administrator. Not in an event loop's thread."""
        asyncio.run(self._execute(*statements))

    def location(self, name: str) -> PostgresLocation:
        """The address of a database."""
        return PostgresLocation(host=str(self.folder), name=name, user=ROLE)

    def create(self, template: str = "template0", *options: str) -> PostgresLocation:
        """A new database."""
        name = f"test_{next(self._numbers)}"
        self.administer(" ".join((f"CREATE DATABASE {name} TEMPLATE {template}", *options)))
        return self.location(name)

    def copy_of(self, key: str, fill: Callable[[PostgresLocation], object]) -> PostgresLocation:
        """A new copy of a database that `fill` has filled once."""
        if key not in self._templates:
            made = self.create()
            fill(made)
            self._templates[key] = made.name
        return self.create(self._templates[key])

    def drop(self, location: PostgresLocation) -> None:
        """Remove a database, in use or not."""
        self.administer(f"DROP DATABASE {location.name} WITH (FORCE)")


@cache
def cluster() -> Cluster:
    """The server of this test process."""
    return Cluster()


def migrate(service: str, location: Location) -> None:
    """Migrate a database, in a thread of its own: the caller may be in an event loop."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(ensure_migrated(service, location))).result()


def postgres_database(service: str) -> PostgresLocation:
    """A new, migrated, empty database of a service."""
    return cluster().copy_of(service, lambda location: migrate(service, location))


@cache
def _migrated_file(service: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "database.sqlite"
        migrate(service, path)
        return path.read_bytes()


def sqlite_database(service: str, folder: Path) -> Path:
    """A new, migrated, empty file of a service, `NAME.sqlite` in `folder`."""
    path = folder / f"{service.rpartition('.')[2]}.sqlite"
    path.write_bytes(_migrated_file(service))
    return path


def database_location(engine: str, service: str, folder: Path) -> Location:
    """A new, migrated, empty database of a service on either engine; `folder` is where a file goes."""
    return postgres_database(service) if engine == "postgresql" else sqlite_database(service, folder)


def postgres_copy(service: str, path: Path) -> PostgresLocation:
    """A new database with the rows of a migrated SQLite file, which must not change between calls."""

    def fill(location: PostgresLocation) -> None:
        migrate(service, location)
        asyncio.run(_copy_rows(path, location))

    return cluster().copy_of(f"{service} {path}", fill)


def copy_database(engine: str, service: str, path: Path, folder: Path) -> None:
    """A copy of a migrated SQLite file on either engine, to be found with `located`."""
    if engine == "postgresql":
        (folder / f"{service}.postgresql").write_text(str(postgres_copy(service, path)))
    else:
        shutil.copy(path, folder / f"{service}.sqlite")


def located(folder: Path, service: str) -> Location:
    """Where `copy_database` put it."""
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
    finally:
        await source.close()
        await target.close()
