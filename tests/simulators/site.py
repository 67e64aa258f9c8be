"""Simulator: one site. A machine with a software TPM, a simulated Fabric, and a repository of published trust.

The agent of the site is complete. Only the cloud is simulated, so a test chooses what the cloud says.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import trio

from cloud.fabric.tuf.targets import build_targets
from node.agent import Agent
from node.clock import utc_now
from node.config import Config
from node.disk.thread import DISK_SECONDS_MAX
from node.exchanges.activation import activate
from node.exchanges.activation_file import read_activation_file
from node.hwbind.tpm import Tpm
from node.startup import _Start
from node.state import State
from protocol.codes import make_secret
from protocol.encoding import json_encode
from protocol.messages.activation import ActivationFile, TrustPin
from tests.simulators.fabric import DOMAIN, Fabric
from tests.simulators.repository import Repository

CODE = make_secret("cac", b"c" * 20)
"""The activation code of every site."""
READY_SECONDS_MAX = 60.0
RETRY_SECONDS = 0.05
"""The first pause between two attempts to read the state."""


def targets_of(fabric: Fabric) -> dict[str, bytes]:
    """The targets that publish the trust of a simulated Fabric."""
    return build_targets(
        keys=fabric.verification_keys(),
        trust_domain=DOMAIN,
        roots=fabric.bundle.roots,
        node_issuers=fabric.bundle.node_issuers,
        service_issuers=fabric.bundle.service_issuers,
        fabric_url=fabric.urls.fabric,
        breakwater_url=fabric.urls.breakwater,
    )


def repository_of(fabric: Fabric) -> Repository:
    """A repository that published the trust of a simulated Fabric a minute ago."""
    return Repository(targets_of(fabric), utc_now() - timedelta(minutes=1))


def write_activation_file(path: Path, url: str, pin: TrustPin, **changes: object) -> Path:
    """Write an activation file with the code `CODE`. `changes` replace fields, also by wrong values. Returns `path`."""
    values = {"format": 1, "repository_url": url, "pin": pin, "code": CODE, "created_at": utc_now()} | changes
    path.write_bytes(json_encode(ActivationFile(**values)))  # type: ignore[arg-type]  # the values may be wrong
    return path


class EndedEarly(Exception):
    """The agent ended before READY. `error` is its error, or None."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(repr(error))
        self.error = error


class Site:
    """The parts of a site. The Fabric is serving, and the repository is served."""

    def __init__(self, directory: Path, tpm: Tpm, fabric: Fabric, repository: Repository) -> None:
        self.directory = directory
        self.tpm = tpm
        self.fabric = fabric
        self.repository = repository

    async def activate(self, name: str) -> Config:
        """Activate the machine in a state directory of this name. Returns the settings of its agent."""
        state = State(self.directory / name)
        state.directory.mkdir(mode=0o700, exist_ok=True)
        file = write_activation_file(self.directory / f"{name}.json", self.repository.url, self.repository.pin)
        await activate(state, self.tpm, read_activation_file(file), utc_now, lambda _: None)
        return self.config(name)

    def config(self, name: str) -> Config:
        """Settings for the state directory of this name."""
        return Config(
            state_dir=self.directory / name,
            socket=self.directory / f"{name}.sock",
            tpm="site",
            mode="development",
            heartbeat_seconds=2,
            settle_seconds=2,
        )

    @asynccontextmanager
    async def running(self, config: Config, ended: Callable[[BaseException | None], None]) -> AsyncIterator["Running"]:
        """The agent of these settings, from READY, or from the first failure to read the state.

        If the agent ends by itself later, `ended` is called with its error, and the block is cancelled.
        Raises EndedEarly if the agent ends before.
        """
        running, early, over = Running(), False, False
        first = trio.Event()

        def ready() -> None:
            running.ready.set()
            first.set()

        async def runs() -> None:
            nonlocal early
            try:
                with ExitStack() as held:
                    start = _Start(config, self.tpm, utc_now, held)
                    running.agent = await start.load(RETRY_SECONDS, DISK_SECONDS_MAX, late=first.set)
                    if running.agent is not None:
                        await running.agent.run(ready)
            except Exception as caught:  # noqa: BLE001 (the caller judges every error)
                running.error = caught
            early = not first.is_set()
            if not early and not over:
                ended(running.error)
            first.set()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(runs)
            with trio.CancelScope(shield=True), trio.fail_after(READY_SECONDS_MAX):
                await first.wait()
            if not early:
                yield running
            over = True
            nursery.cancel_scope.cancel()
        if early:
            raise EndedEarly(running.error)


class Running:
    """A started agent. `agent` is None while the state cannot be read. `ready` is set once it serves the licence."""

    def __init__(self) -> None:
        self.agent: Agent | None = None
        self.ready = trio.Event()
        self.error: BaseException | None = None

    @property
    def loaded(self) -> Agent:
        """The agent. The state could be read."""
        if self.agent is None:
            raise RuntimeError("the agent has not read its state")
        return self.agent


class UnexpectedErrors(logging.Handler):
    """Keeps the log records that show an error which no code of the agent expects."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter("%(name)s: %(message)s").format(record)
        if record.exc_info or 'File "' in text:
            self.found.append(text[-3000:])


@contextmanager
def unexpected_errors() -> Iterator[UnexpectedErrors]:
    """Collect the unexpected errors of the agent's log."""
    handler, log = UnexpectedErrors(), logging.getLogger("cascadia")
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
