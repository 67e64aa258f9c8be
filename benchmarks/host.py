"""Real parts: servers that are pinned to a core, on either database engine, and the CPU time of their processes.

The measured server has one core for itself. The client and PostgreSQL have the others. So the rate on the wall is the
limit of the server and not of the client. On a machine with one core no process is pinned.
"""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.world import World, cpu_seconds
from lab.cloud import PORTS
from lab.postgres import ROLE, Cluster
from lab.processes import BIN, Process, StepFailed, accepts, free_ports, wait_until

TICKS = os.sysconf("SC_CLK_TCK")


CORES = tuple(sorted(os.sched_getaffinity(0)))


def pinned(command: list[str]) -> list[str]:
    """The command, pinned to the first core."""
    return command if len(CORES) < 2 else ["taskset", "--cpu-list", str(CORES[0]), *command]


@contextmanager
def others_elsewhere() -> Iterator[None]:
    """Keep this process off the first core, and the processes that it starts without `pinned`."""
    os.sched_setaffinity(0, CORES[1:] or CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


class Postgres:
    """The PostgreSQL of this run, with durable commits. It listens only on a Unix socket."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self._cluster.stop()
        self._cluster.start(shared_buffers="128MB", autovacuum="on")
        self.socket = self._cluster.folder
        self._postmaster = next(pid for pid, name in _children(os.getpid()) if name == "postgres")

    def create(self) -> str:
        """Make a database; return its name."""
        return self._cluster.create("template0", "ENCODING 'UTF8'", "LOCALE 'C'").name

    def new_database(self) -> str:
        """Make a database; return its address as `cascade init` reads it."""
        return f"postgresql://{ROLE}@/{self.create()}?host={self.socket}"

    def execute(self, database: str, *statements: str) -> None:
        """Run statements in a database."""
        command = ["psql", "-q", "-h", str(self.socket), "-U", ROLE, "-d", database, "-v", "ON_ERROR_STOP=1"]
        subprocess.run([*command, *(part for sql in statements for part in ("-c", sql))], check=True)

    def cpu_seconds(self) -> float:
        """CPU time of the server with all its children, including those that have ended."""
        living = sum(_cpu_seconds_of(pid) for pid, _ in _children(self._postmaster))
        fields = Path(f"/proc/{self._postmaster}/stat").read_text().rpartition(")")[2].split()
        return living + cpu_seconds(self._postmaster) + (int(fields[13]) + int(fields[14])) / TICKS

    def stop(self) -> None:
        self._cluster.remove()


def _cpu_seconds_of(pid: int) -> float:
    try:
        return cpu_seconds(pid)
    except OSError:  # it has ended meanwhile
        return 0.0


def _children(parent: int) -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (path / "stat").read_text().partition(" (")[2].rpartition(") ")
            if int(rest.split()[1]) == parent:
                found.append((int(path.name), name))
    return found


class Server(msgspec.Struct, frozen=True):
    """A running Breakwater: installation, process, ports, and the server of its database if it has one."""

    engine: str
    directory: Path
    pid: int
    port: int
    pki_port: int
    postgres: Postgres | None = None

    def database_seconds(self) -> float:
        """CPU time of the database's processes until now."""
        return 0.0 if self.postgres is None else self.postgres.cpu_seconds()


def install(world: World, name: str, postgres: Postgres | None) -> tuple[Path, int]:
    """Make an installation; return its directory and its first port."""
    directory, port = world.directory / name, free_ports(PORTS)
    databases = [] if postgres is None else ["--breakwater-database", postgres.new_database()]
    world.operate("init", "--dir", str(directory), "--port-base", str(port), *databases)
    allow_load(directory / "breakwater" / "settings.toml")
    return directory, port


@contextmanager
def breakwater(world: World, postgres: Postgres | None = None) -> Iterator[Server]:
    """Run `cascade serve breakwater` for a new installation, on the first core."""
    engine = "sqlite" if postgres is None else "postgresql"
    name = f"issuer-{engine}"
    directory, port = install(world, name, postgres)
    command = [str(BIN / "cascade")]
    if world.profiles is not None:
        command = [sys.executable, "-m", "benchmarks.profiled", str(world.profiles / f"{name}.prof")]
    process = world.start(name, pinned([*command, "serve", "breakwater", "--dir", str(directory)]))
    try:
        wait_until("Breakwater's answer", lambda: _healthy(process, port + 3))
        yield Server(engine, directory, process.pid, port + 1, port + 3, postgres)
    finally:
        process.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def returning_memory() -> Iterator[None]:
    """Start processes whose memory is measured.

    A service decrypts key files with much memory at its start. glibc keeps the freed blocks, and connections would fill
    them without a growth of RSS. With a fixed threshold glibc returns large blocks at once.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(128 * 1024)
    try:
        yield
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def allow_load(settings: Path) -> None:
    """Multiply the limits by caller in a settings file: all requests of a benchmark come from one address."""
    settings.write_text(f"{settings.read_text()}\n[admission]\nfactor = 1000\n")


@contextmanager
def cloud(world: World, postgres: Postgres | None = None) -> Iterator[Server]:
    """Run `cascade up` (Fabric and Breakwater) for a new installation, on the first core. `port` is Fabric's."""
    engine = "sqlite" if postgres is None else "postgresql"
    name = f"cloud-{engine}"
    directory, port = world.directory / name, free_ports(PORTS)
    databases = [] if postgres is None else [
        part
        for service in ("breakwater", "fabric")
        for part in (f"--{service}-database", postgres.new_database())
    ]  # fmt: skip
    world.operate("init", "--dir", str(directory), "--port-base", str(port), *databases)
    for service in ("breakwater", "fabric"):
        allow_load(directory / service / "settings.toml")
    with returning_memory():
        process = world.start(name, pinned([str(BIN / "cascade"), "up", "--dir", str(directory)]))
    try:
        wait_until("the cloud's answer", lambda: _healthy(process, port + 3))
        # Fabric starts after Breakwater. On PostgreSQL it needs a second more.
        wait_until("Fabric's listener", lambda: accepts(port + 2))
        yield Server(engine, directory, process.pid, port, port + 3, postgres)
    finally:
        process.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _healthy(process: Process, port: int) -> bool:
    if not process.running:
        raise StepFailed(f"{process.name} ended: {process.tail()}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


@contextmanager
def other_server(world: World, name: str, command: list[str], port: int) -> Iterator[Process]:
    """Run the server of another program on the first core; yield when its port accepts connections."""
    process = world.start(name, pinned(command))

    def listens() -> bool:
        if not process.running:
            raise StepFailed(f"{name} ended: {process.tail()}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        return False

    try:
        wait_until(f"{name}'s port", listens)
        time.sleep(0.2)
        yield process
    finally:
        process.stop()
