"""Real part: a cloud on a developer's machine. It has its own installation, `cascade up`, and `cascade` commands."""

import asyncio
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from cloud.breakwater.settings import BreakwaterSettings
from cloud.fabric.settings import FabricSettings
from cloud.process.settings import load_settings
from cloud.storage import Location, ServiceEngine, Statement
from lab.processes import WAIT_SECONDS, Process, Start, accepts, free_ports, installed, wait_until
from lab.tpm import SoftTpm

PORTS = 6
"""Fabric; Breakwater; the TUF repository; CRLs and OCSP. The last two are open to everybody."""


class Cloud:
    """An installation in `directory`/cloud. `start` starts its processes; a call may give another `start`.

    `seconds` is how long a command, a start and a stop may take.
    """

    def __init__(self, directory: Path, start: Start = installed, seconds: float = WAIT_SECONDS) -> None:
        self.directory = directory / "cloud"
        self.process: Process | None = None
        self.port = 0
        """The first of the six ports, which is Fabric's."""
        self.made: Any = None
        self._scratch = directory
        self._start = start
        self._seconds = seconds

    @property
    def env(self) -> dict[str, str]:
        """The environment variables for an operator's commands."""
        lines = (self.directory / "operator" / "env").read_text().splitlines()
        variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        return {**variables, "XDG_CACHE_HOME": str(self._scratch / "cache")}

    def init(self, *options: str) -> Self:
        """Run `cascade init`. `made` is then the document that the command printed."""
        self.port = free_ports(PORTS)
        place = ("--dir", str(self.directory), "--port-base", str(self.port))
        self.made = self._start(self._scratch, "cascade", "init", *place, *options, "--json").document(
            seconds=self._seconds
        )
        return self

    def copy_from(self, other: "Cloud") -> Self:
        """Copy an installation with its keys, databases and addresses. Only one of the copies can run at a time."""
        shutil.copytree(other.directory, self.directory)
        path = self.directory / "operator" / "env"
        path.write_text(path.read_text().replace(str(other.directory), str(self.directory)))
        self.port = other.port
        return self

    def up(self, start: Start | None = None, wait: bool = True) -> Process:
        """Start `cascade up`; with `wait`, return when every listener accepts connections."""
        self.process = (start or self._start)(self._scratch, "cascade", "up", "--dir", str(self.directory))
        if wait:
            self.wait_up()
        return self.process

    def wait_up(self) -> None:
        """Return when every listener accepts connections, or when the process has ended."""

        def up() -> bool:
            if self.process is None or not self.process.running:
                return True
            return all(accepts(port) for port in range(self.port, self.port + PORTS))

        wait_until("the start of the cloud", up, self._seconds)

    def down(self) -> None:
        """Stop `cascade up`."""
        if self.process is not None:
            self.process.stop(self._seconds)

    def kill(self) -> None:
        """Kill `cascade up`."""
        if self.process is not None:
            self.process.kill()

    def run(self, *argv: str, expect: int | None = 0) -> Any:
        """Run a `cascade` command with `--json`; return its document. StepFailed if the exit is not `expect`."""
        return self._start(self._scratch, "cascade", *argv, "--json", env=self.env).document(expect, self._seconds)

    def rows(self, service: str, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Rows of a service's database, read while the service runs. Arguments are for SQLite only."""
        if not (self.directory / service / "database.sqlite").exists():
            kind = FabricSettings if service == "fabric" else BreakwaterSettings
            location = load_settings(self.directory / service / "settings.toml", kind).database_location()
            # In a thread of its own, because the caller may run inside an event loop.
            with ThreadPoolExecutor(1) as worker:
                return worker.submit(lambda: asyncio.run(_rows_of(location, sql))).result()
        uri = f"file:{self.directory / service / 'database.sqlite'}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=10)
        try:
            return list(connection.execute(sql, arguments))
        finally:
            connection.close()

    def tenant(self, chip: SoftTpm, name: str = "acme") -> str:
        """Make a tenant that trusts the maker of `chip`; return its id."""
        tenant = str(self.run("tenant", "create", name)["id"])
        chain = self._scratch / "ek-roots.pem"
        chain.write_text(chip.ek_roots_pem.read_text() + chip.ek_intermediates_pem.read_text())
        self.run("hardware", "add-root", tenant, str(chain))
        return tenant

    def code(self, tenant: str, *options: str, entitlement: str = "vision") -> Path:
        """Make an activation code; return its activation file."""
        path = self._scratch / f"activation-{time.monotonic_ns()}.json"
        self.run("code", "create", tenant, "--entitlement", entitlement, "--out", str(path), *options)
        return path


async def _rows_of(location: Location, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query on a database of either engine."""
    engine = ServiceEngine("lab")
    engine.configure(location)
    await engine.open()
    try:
        return [tuple(row.values()) for row in await engine.fetch(Statement(sql))]
    finally:
        await engine.close()
