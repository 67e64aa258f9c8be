"""Real part: forks the two command lines from a process that has imported everything. A fork saves a second of imports.

The forked process runs `main` of `cascade` or `cascadia`, with sockets, databases and a TPM as in any other start.
Do not change the source meanwhile. A module that the fork imports would be of another version than the rest.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from multiprocessing.connection import wait as wait_ready
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from lab.processes import Process, Side, new_files

Prepare = Callable[[Side], None]
"""Called in the new process before its command line runs. It is pickled, so it has to be importable."""

_PRELOAD = [
    "lab.forks", "cloud.breakwater.app", "cloud.fabric.app", "cloud.cli.main", "cloud.cli.run",
    "cloud.cli.installation.init", "cloud.cli.connection", "cloud.cli.tuf_client", "cloud.cli.tenants", "cloud.cli.codes", "cloud.cli.nodes",
    "cloud.cli.tokens", "cloud.cli.audit", "cloud.cli.trust.commands", "cloud.cli.pki.commands", "cloud.cli.pki.host",
    "node.cli.main", "node.agent", "node.exchanges.activation", "node.trust.update", "node.local.client",
    "node.system.hardening",
    # The modules above import these at their first use.
    "litestar._kwargs.kwargs_model", "anyio._backends._asyncio", "asyncpg", "encodings.idna",
    "cryptography.hazmat.backends.openssl.backend", "tuf.api.serialization.json", "tpm2_pytss.cryptography", "pyudev",
    "_strptime",
]  # fmt: skip

_turn = threading.Lock()
"""The library reads an exit status once, in the first thread that starts or polls. So one thread does so at a time."""


class ForkServer:
    """Starts the command lines. The library has one fork server for each process, so make one instance."""

    def __init__(self, *preload: str) -> None:
        """`preload`: more modules that the server imports, such as the module of `prepare`."""
        self._preload = [*_PRELOAD, *preload]

    @cached_property
    def _context(self) -> ForkServerContext:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(self._preload)
        return context

    def start(
        self,
        directory: Path,
        side: Side,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        prepare: Prepare | None = None,
    ) -> Process:
        """Fork a command line. Its standard error goes to SIDE.log in `directory`."""
        log, out = new_files(directory, side)
        child = self._fork(_become, side, list(arguments), dict(env or {}), str(log), str(out), prepare)
        return Process(side, child, log, out, [side, *arguments])

    def call(self, directory: Path, name: str, function: Callable[..., object], *arguments: object) -> Process:
        """Fork a process that calls a module's function, which is pickled. Standard error goes to NAME.log in `directory`.

        The exit status is 0 when the function returns and 1 when it raises.
        """
        log, out = new_files(directory, name)
        child = self._fork(_call, str(log), str(out), function, arguments)
        return Process(name, child, log, out, [f"{function.__module__}.{function.__qualname__}", *map(str, arguments)])

    def _fork(self, target: Callable[..., object], *arguments: object) -> "_Forked":
        with _turn:
            child = self._context.Process(target=target, args=arguments, daemon=True)
            child.start()
        return _Forked(child)


class _Forked:
    """A forked child, with the methods of `subprocess.Popen` that `Process` uses."""

    def __init__(self, child: ForkServerProcess) -> None:
        if child.pid is None:
            raise RuntimeError("the process was not started")
        self.pid = child.pid
        self._child = child

    def poll(self) -> int | None:
        with _turn:
            return self._child.exitcode

    def wait(self, timeout: float | None = None) -> int:
        wait_ready([self._child.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._child.name, timeout or 0.0)
        return code

    def terminate(self) -> None:
        self._child.terminate()

    def kill(self) -> None:
        self._child.kill()


def _redirect(log: str, out: str) -> None:
    for stream, path in ((1, out), (2, log)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fd, stream)
        os.close(fd)


def _call(log: str, out: str, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """In the forked process: call the function. The library prints the traceback of an error."""
    _redirect(log, out)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    function(*arguments)


def _become(
    side: Side, argv: list[str], environment: dict[str, str], log: str, out: str, prepare: Prepare | None
) -> None:
    """In the forked process: become the command line."""
    # The objects of the imports live until the end. A collection would look at all of them, and copy their memory.
    gc.freeze()
    _redirect(log, out)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if prepare is not None:
        prepare(side)
    if side == "cascade":
        from cloud.cli.main import main
    else:
        from node.cli.main import main
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
