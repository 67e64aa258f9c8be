"""Real parts: the measured cloud process, a software TPM behind its resource manager, and one activated node.

The first benchmark that needs them makes them; they end with the run. All listen on loopback. The operator's commands
and the activation run in this process, because their start is not measured. Cloud and agent are separate processes,
started by the installed command lines.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import trio

from benchmarks.figures import progress
from cloud.cli.main import main as cascade
from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import Process, StepFailed, ended, scratch_directory, start_program, wait_until
from lab.tpm import SoftTpm, shared_bus
from node.clock import utc_now
from node.exchanges.activation import activate
from node.exchanges.activation_file import read_activation_file
from node.hwbind.tpm import Tpm
from node.state import State
from node.trust.published import TrustSet, load

ENTITLEMENT = "vision"


class Installed(msgspec.Struct, frozen=True):
    """The tenant, the activation file, and the node that was activated with it."""

    tenant: str
    node: str
    file: Path


class World:
    """A context manager. Its exit ends all started processes."""

    def __init__(self, profiles: Path | None = None) -> None:
        self.profiles = profiles
        """The folder for profiles of the issuer; None for no profiles."""
        self._ends = ExitStack()
        self._installed: Installed | None = None
        self.directory = self._ends.enter_context(scratch_directory("cascade-benchmarks-"))
        self.chip = SoftTpm(self.directory / "chip", bus=shared_bus())
        self.cloud = Cloud(self.directory)

    def __enter__(self) -> Self:
        # As installed: with compiled modules. An environment for development may lack them.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(self.directory / "compiled")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.__exit__(kind, error, trace)

    def operate(self, *command: str) -> Any:
        """Run a `cascade` command in this process; return its document. Raises StepFailed."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cascade([*command, "--json"])
        if code != 0:
            raise StepFailed(f"`cascade {' '.join(command)}` exited {code}: {said.getvalue()[-1500:]}")
        return json.loads(said.getvalue())

    def installed(self) -> Installed:
        """An initialised cloud and one activated node, made at the first call."""
        if self._installed is None:
            progress("making a cloud, a TPM and a node")
            self._ends.enter_context(ended(self.cloud))
            self.cloud.init()
            for service in ("breakwater", "fabric"):
                settings = self.cloud.directory / service / "settings.toml"
                settings.write_text(f"{settings.read_text()}\n[admission]\nfactor = 1000\n")
            os.environ.update(self.cloud.env)
            self.cloud_up()
            tenant = self.new_tenant()
            file = self.new_code(tenant, "first")
            self._installed = Installed(tenant, self.activate(file), file)
        return self._installed

    def new_tenant(self) -> str:
        """A tenant that accepts this machine's TPM, in the cloud of the environment; return its id."""
        tenant = str(self.operate("tenant", "create", "benchmark")["id"])
        roots, chip = self.directory / "ek-roots.pem", self.machine.chip
        roots.write_text(chip.ek_roots_pem.read_text() + chip.ek_intermediates_pem.read_text())
        self.operate("hardware", "add-root", tenant, str(roots))
        return tenant

    def new_code(self, tenant: str, name: str, *options: str) -> Path:
        file = self.directory / f"activation-{name}.json"
        self.operate("code", "create", tenant, "--entitlement", ENTITLEMENT, "--out", str(file), *options)
        return file

    def activate(self, file: Path, state: State | None = None) -> str:
        """Activate the machine, also repeatedly; return the node's id. `state` takes the place of its own state."""
        kept = self.state if state is None else state

        async def work() -> str:
            tpm = Tpm(self.chip.tcti)
            try:
                return (await activate(kept, tpm, read_activation_file(file), utc_now, lambda _: None)).identity.node
            finally:
                await tpm.aclose()

        with kept.owned():
            return trio.run(work)

    @property
    def state(self) -> State:
        return State(self.machine.state)

    @property
    def trust(self) -> TrustSet:
        return load(self.machine.state)

    def start(self, name: str, command: list[str]) -> Process:
        """Register another process that ends with this world."""
        process = start_program(self.directory, name, command)
        self._ends.enter_context(ended(process))
        return process

    # The cloud

    def cloud_up(self) -> int:
        """The process id of `cascade up`. Starts it if it does not run."""
        process = self.cloud.process
        if process is None or not process.running:
            process = self.cloud.up()
            if not process.running:
                raise StepFailed(f"the cloud ended: {process.tail()}")
        return process.pid

    # The agent

    @cached_property
    def machine(self) -> Machine:
        """The machine, with its TPM running."""
        self._ends.enter_context(self.chip)
        machine = Machine(self.directory, self.chip, heartbeat_seconds=None)
        self._ends.enter_context(ended(machine))
        return machine

    @contextmanager
    def agent(self) -> Iterator[Process]:
        """A running agent whose socket answers and whose gate is open."""
        process = self.machine.launch()
        try:
            wait_until("the agent's answer", lambda: not process.running or self.machine.granted(ENTITLEMENT))
            if not process.running:
                raise StepFailed(f"the agent ended: {process.tail()}")
            yield process
        finally:
            process.stop()

    def socket_client(self) -> httpx.Client:
        """An HTTP client with a kept-alive connection to the agent's socket."""
        transport = httpx.HTTPTransport(uds=str(self.machine.socket))
        return httpx.Client(transport=transport, base_url="http://cascadia", trust_env=False)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all threads, user and system: its clock by clock_getcpuclockid(3), Linux's formula."""
    return time.clock_gettime(~pid << 3 | 2)


def memory_kib(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.startswith(("Rss:", "Pss:"))}
    return sizes["Rss"], sizes["Pss"]
