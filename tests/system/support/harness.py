"""Cloud and node as processes of their own, quickly: forked from a server that has everything imported already.

The real command lines run (`cascade up`, `cascadia run`, ...), with real sockets, databases and a software TPM; only
the second that importing takes is saved. A process can be given a `Plan` of faults: to note the fault points it
passes, or to kill itself (SIGKILL, so that nothing is flushed or closed) at one of them.
"""

import http.client
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait as wait_ready
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from lab.tpm import SoftTpm

Side = Literal["cascade", "cascadia"]

WAIT_SECONDS = 30.0
_PRELOAD = [
    "cloud.cli.main", "cloud.cli.run", "cloud.cli.operate", "cloud.breakwater.app", "cloud.fabric.app",
    "cloud.cli.init", "cloud.cli.published_trust", "node.cli.main", "node.agent", "node.exchanges.activation", "node.trust.update",
    "node.local.client", "cloud.cli.pki.commands", "tests.system.support.harness", "tests.system.support.witness",
    # What these import when it is first used.
    "litestar._kwargs.kwargs_model", "litestar.plugins.pydantic", "anyio._backends._asyncio", "uvicorn.lifespan.off",
    "cryptography.hazmat.backends.openssl.backend", "tuf.api.serialization.json", "tpm2_pytss.cryptography", "pyudev",
    "node.system.hardening", "encodings.idna", "_strptime", "asyncpg",
]  # fmt: skip


class Plan(msgspec.Struct, frozen=True):
    """What a process does at fault points: append them to `record`, kill itself at `kill` = (name, stage).

    `control` is the folder of a witness (`tests.system.support.witness`) in an issuer's process; a `patient` one waits for
    other replicas as long as a real one.
    """

    record: str = ""
    kill: tuple[str, str] | None = None
    control: str = ""
    patient: bool = False


def _install(plan: Plan) -> None:
    from protocol import faults

    def hook(name: str, stage: faults.Stage) -> None:
        if plan.record:
            with Path(plan.record).open("a") as file:
                file.write(f"{name} {stage}\n")
        if plan.kill == (name, stage):
            os.kill(os.getpid(), signal.SIGKILL)

    faults.install(hook)
    if plan.control:
        from tests.system.support import witness

        witness.install(Path(plan.control), patient=plan.patient)


def _child(side: Side, argv: list[str], environment: dict[str, str], log: str, out: str, plan: Plan) -> None:
    """In the forked process: become the command line."""
    for stream, path in ((1, out), (2, log)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fd, stream)
        os.close(fd)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _install(plan)
    if side == "cascade":
        from cloud.cli.main import main
        from tests.light_keys import use_light_keys

        use_light_keys()
    else:
        from node.cli.main import main
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_context: multiprocessing.context.ForkServerContext | None = None
_turn = threading.Lock()
"""The library reads an exit status once, and in whichever thread starts or asks first."""


def _forkserver() -> multiprocessing.context.ForkServerContext:
    global _context  # noqa: PLW0603  one fork server a test process, made when the first process is wanted
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(_PRELOAD)
    return _context


class Process:
    """One command line as a process."""

    def __init__(
        self, directory: Path, side: Side, *argv: str, env: dict[str, str] | None = None, plan: Plan | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"{side}.log"
        self._out = directory / f"{side}-{time.monotonic_ns()}.out"
        with _turn:
            self._process: ForkServerProcess = _forkserver().Process(
                target=_child,
                args=(side, list(argv), env or {}, str(self.log), str(self._out), plan or Plan()),
                daemon=True,
            )
            self._process.start()

    @property
    def pid(self) -> int:
        if self._process.pid is None:
            raise RuntimeError("the process was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        with _turn:
            return self._process.is_alive()

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """The exit status (negative: killed by that signal)."""
        wait_ready([self._process.sentinel], seconds)
        with _turn:
            code = self._process.exitcode
        if code is None:
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.tail()}")
        return code

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        if self.running:
            self._process.terminate()
        return self.wait()

    def kill(self) -> None:
        if self.running:
            self._process.kill()
        self.wait()

    def out(self) -> Any:
        """What it printed, as JSON."""
        text = self._out.read_text() if self._out.exists() else ""
        return json.loads(text) if text.strip() else None

    def tail(self) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        said = self._out.read_text(errors="replace") if self._out.exists() else ""
        return (text + said)[-3000:]


def wait_until(what: str, check: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `check`."""
    until = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)


_FIRST_PORT, _PORTS_EACH, _SLOTS = 10_000, 4, 5_600
"""Below 32768, where Linux takes the ports of outgoing connections from."""
_slots = itertools.count(os.getpid() * 16)


def free_ports(count: int = 4) -> int:
    """The first of neighbouring free ports on loopback; each call in a process gets others."""
    for slot in itertools.islice(_slots, 200):
        base = _FIRST_PORT + slot % _SLOTS * _PORTS_EACH
        try:
            with ExitStack() as stack:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports on loopback")


class Cloud:
    """An installation, and `cascade` against it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "cloud"
        self._scratch = directory
        self.process: Process | None = None
        self.port = 0

    @property
    def env(self) -> dict[str, str]:
        lines = (self.directory / "operator" / "env").read_text().splitlines()
        return {**dict(line.split("=", 1) for line in lines), "XDG_CACHE_HOME": str(self._scratch / "cache")}

    def init(self, *options: str) -> Self:
        self.port = free_ports()
        place = ("--dir", str(self.directory), "--port-base", str(self.port))
        process = Process(self._scratch, "cascade", "init", *place, *options)
        assert process.wait() == 0, process.tail()
        return self

    def copy_from(self, other: "Cloud") -> Self:
        """The same installation with its keys, databases and addresses: only one of the copies can be up."""
        shutil.copytree(other.directory, self.directory)
        for name in ("env",):
            path = self.directory / "operator" / name
            path.write_text(path.read_text().replace(str(other.directory), str(self.directory)))
        self.port = other.port
        return self

    def up(self, plan: Plan | None = None, wait: bool = True) -> Process:
        self.process = Process(self._scratch, "cascade", "up", "--dir", str(self.directory), plan=plan)
        if wait:
            self.wait_up()
        return self.process

    def wait_up(self) -> None:
        """Until every listener accepts, or the process has ended."""

        def up() -> bool:
            if self.process is None or not self.process.running:
                return True
            for port in range(self.port, self.port + 4):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) != 0:
                        return False
            return True

        wait_until("the start of the cloud", up)

    def down(self) -> None:
        if self.process is not None:
            self.process.stop()

    def run(self, *argv: str, expect: int | None = 0) -> Any:
        """One `cascade` command with `--json`; its document."""
        process = Process(self._scratch, "cascade", *argv, "--json", env=self.env)
        code = process.wait()
        assert expect is None or code == expect, f"{argv}: {code}\n{process.tail()}"
        return process.out()

    def rows(self, service: str, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        """A look into a service's database, beside the running service."""
        uri = f"file:{self.directory / service / 'database.sqlite'}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=10)
        try:
            return list(connection.execute(sql, arguments))
        finally:
            connection.close()

    def tenant(self, chip: SoftTpm, name: str = "acme") -> str:
        """A tenant that trusts the chip's maker; its id."""
        tenant = str(self.run("tenant", "create", name)["id"])
        chain = self._scratch / "ek-roots.pem"
        chain.write_text(chip.ek_roots_pem.read_text() + chip.ek_intermediates_pem.read_text())
        self.run("tenant", "trust", tenant, "--ek-root", str(chain))
        return tenant

    def code(self, tenant: str, *options: str, entitlement: str = "vision") -> Path:
        """A new activation file."""
        path = self._scratch / f"activation-{time.monotonic_ns()}.json"
        self.run("code", "create", tenant, "--entitlement", entitlement, "--out", str(path), *options)
        return path


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the unix socket at `path`. Polled often, so nothing heavier."""

    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Machine:
    """A machine: TPM, state directory, and `cascadia` on it."""

    def __init__(self, directory: Path, chip: SoftTpm, name: str = "machine", heartbeat_seconds: int = 2) -> None:
        self.directory = directory / name
        self.state = self.directory / "state"
        self.socket = self.directory / "s.sock"
        self.directory.mkdir(parents=True)
        self.chip = chip
        self.agent: Process | None = None
        config = self.directory / "cascadia.toml"
        config.write_text(
            f'state_dir = "{self.state}"\nsocket = "{self.socket}"\ntpm = "{chip.tcti}"\nmode = "development"\n'
            f"heartbeat_seconds = {heartbeat_seconds}\nsettle_seconds = 5\n"
        )
        self.env = {**chip.env, "CASCADIA_CONFIG": str(config)}

    def start(self, *argv: str, plan: Plan | None = None) -> Process:
        """A `cascadia` command, not waited for."""
        return Process(self.directory, "cascadia", *argv, env=self.env, plan=plan)

    def run(self, *argv: str, expect: int | None = 0) -> Any:
        """A `cascadia` command with `--json`; its document."""
        process = self.start(*argv, "--json")
        code = process.wait()
        assert expect is None or code == expect, f"{argv}: {code}\n{process.tail()}"
        return process.out()

    def launch(self, plan: Plan | None = None) -> Process:
        """`cascadia run`, not waited for."""
        self.socket.unlink(missing_ok=True)
        self.agent = self.start("run", plan=plan)
        return self.agent

    def up(self, plan: Plan | None = None) -> Process:
        agent = self.launch(plan)
        wait_until("the agent's answer", lambda: not agent.running or self.answers())
        assert agent.running, agent.tail()
        return agent

    def answers(self) -> bool:
        return self.ask("/v1/status") is not None

    def down(self) -> int:
        return self.agent.stop() if self.agent is not None else 0

    def ask(self, path: str) -> Any:
        """A document from the agent's socket; None when nobody answers."""
        connection = _UnixConnection("cascadia", timeout=10)
        connection.path = str(self.socket)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        except (http.client.HTTPException, OSError, ValueError):
            return None
        finally:
            connection.close()

    @property
    def licence(self) -> str:
        document = self.ask("/v1/license")
        return str(document["state"]) if document else "no agent"

    def granted(self, name: str = "vision") -> bool:
        document = self.ask(f"/v1/entitlements/{name}")
        return bool(document and document["granted"])

    def wait_state(self, *states: str, seconds: float = WAIT_SECONDS) -> None:
        wait_until(f"state {states} (now {self.licence})", lambda: self.licence in states, seconds)


@contextmanager
def ended(*things: Cloud | Machine) -> Iterator[None]:
    """Kill what is still running of these at the end."""
    try:
        yield
    finally:
        for thing in things:
            process = thing.process if isinstance(thing, Cloud) else thing.agent
            if process is not None:
                process.kill()
