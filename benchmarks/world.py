"""The real parts that are measured: a cloud process, a software TPM behind its resource manager, one activated node.

Made once a run, when the first benchmark wants it, and ended with it. Everything listens on loopback. The operator's
commands and the activation run in this process (their own start is not what is measured); cloud and agent are
processes of their own, started as anyone would start them.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import trio

from benchmarks.figures import progress
from cloud.cli.main import main as cascade
from demo.stage import Stage
from lab.processes import BIN, Process, StepFailed, free_ports, wait_for
from lab.tpm import SoftTpm, shared_bus
from node.clock import utc_now
from node.exchanges.activation import activate
from node.hwbind.tpm import Tpm
from node.state import State
from node.trust.published import TrustSet, load

ENTITLEMENT = "vision"


class Installed(msgspec.Struct, frozen=True):
    """The tenant, the activation file and the node it made."""

    tenant: str
    node: str
    file: Path


class World:
    """A context manager; leaving it ends all that was started."""

    def __init__(self, profiles: Path | None = None) -> None:
        self.profiles = profiles
        """Where profiles of the issuer go, if any are wanted."""
        self._stage = Stage()
        self._cloud: Process | None = None
        self._installed: Installed | None = None
        self.directory = self._stage.directory
        self.cloud_directory = self.directory / "cloud"
        self.state_directory = self.directory / "state"
        self.socket = self.directory / "s.sock"
        self.port = free_ports(4)
        self.chip = SoftTpm(self.directory / "chip", bus=shared_bus())

    def __enter__(self) -> Self:
        self._stage.__enter__()
        # As installed: with compiled modules, which an environment for development may do without.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(self.directory / "compiled")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stage.__exit__(kind)

    def operate(self, *command: str) -> Any:
        """One `cascade` command, in this process; its document. Raises StepFailed."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cascade([*command, "--json"])
        if code != 0:
            raise StepFailed(f"`cascade {' '.join(command)}` exited {code}: {said.getvalue()[-1500:]}")
        return json.loads(said.getvalue())

    def installed(self) -> Installed:
        """The cloud, initialised, and one node activated; made at the first call."""
        if self._installed is None:
            progress("making a cloud, a TPM and a node")
            self._stage.adopt(self.chip.start())
            self.operate("init", "--dir", str(self.cloud_directory), "--port-base", str(self.port))
            lines = (self.cloud_directory / "operator" / "env").read_text().splitlines()
            os.environ.update(dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")))
            os.environ["XDG_CACHE_HOME"] = str(self.directory / "cache")
            self.cloud_up()
            tenant = str(self.operate("tenant", "create", "benchmark")["id"])
            roots = self.directory / "ek-roots.pem"
            roots.write_text(self.chip.ek_roots_pem.read_text() + self.chip.ek_intermediates_pem.read_text())
            self.operate("tenant", "trust", tenant, "--ek-root", str(roots))
            file = self.new_code(tenant, "first")
            self._installed = Installed(tenant, self.activate(file), file)
        return self._installed

    def new_code(self, tenant: str, name: str, *options: str) -> Path:
        file = self.directory / f"activation-{name}.json"
        self.operate("code", "create", tenant, "--entitlement", ENTITLEMENT, "--out", str(file), *options)
        return file

    def activate(self, file: Path) -> str:
        """Activate the machine, or activate it again; the node's id."""

        async def work() -> str:
            tpm = Tpm(self.chip.tcti)
            try:
                return (await activate(self.state, tpm, file, utc_now, lambda _: None)).identity.node
            finally:
                await tpm.aclose()

        with self.state.owned():
            return trio.run(work)

    @property
    def state(self) -> State:
        return State(self.state_directory)

    @property
    def trust(self) -> TrustSet:
        return load(self.state_directory)

    def start(self, name: str, command: list[str]) -> Process:
        """Another process that ends with this world."""
        return self._stage.start(name, command, {})

    # The cloud

    def cloud_up(self) -> int:
        """The process id of `cascade up`, started if it does not run."""
        if self._cloud is None or not self._cloud.running():
            command = [str(BIN / "cascade"), "up", "--dir", str(self.cloud_directory)]
            started = self._cloud = self._stage.start("cloud", command, {})
            wait_for("the cloud's answer", lambda: self._answers(started))
        return self._cloud.pid

    def _answers(self, cloud: Process) -> bool:
        if not cloud.running():
            raise StepFailed(f"the cloud ended: {cloud.tail()}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port + 2}/healthz", trust_env=False).status_code == 200
        return False

    def cloud_down(self) -> None:
        if self._cloud is not None:
            self._cloud.stop()
            self._cloud = None

    # The agent

    @property
    def agent_environment(self) -> dict[str, str]:
        """Everything at its default but the places."""
        return {
            **self.chip.env,
            "CASCADIA_STATE_DIR": str(self.state_directory),
            "CASCADIA_SOCKET": str(self.socket),
            "CASCADIA_TPM": self.chip.tcti,
            "CASCADIA_MODE": "development",
        }

    @contextmanager
    def agent(self) -> Iterator[Process]:
        """A running agent whose socket answers and whose licence is open."""
        self.socket.unlink(missing_ok=True)
        process = self._stage.start("agent", [str(BIN / "cascadia"), "run"], self.agent_environment)

        def answers() -> bool:
            if not process.running():
                raise StepFailed(f"the agent ended: {process.tail()}")
            return self.socket.exists() and bool(self.ask(f"/v1/entitlements/{ENTITLEMENT}")["granted"])

        try:
            wait_for("the agent's answer", answers)
            yield process
        finally:
            process.stop()

    def ask(self, path: str) -> Any:
        """A document from the agent's socket."""
        with self.socket_client() as client:
            return client.get(path).json()

    def socket_client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://cascadia", trust_env=False)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all threads, user and system: its clock by clock_getcpuclockid(3), Linux's formula."""
    return time.clock_gettime(~pid << 3 | 2)


def memory_kib(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.startswith(("Rss:", "Pss:"))}
    return sizes["Rss"], sizes["Pss"]
