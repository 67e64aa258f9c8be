"""Benchmarks: start and memory of the agent. The floor is an interpreter that imports only its four largest libraries.

Both run as on a customer's machine. The development tools of this environment bring `click` and `rich`. `httpx` imports
them if they are installed, which costs a tenth of a second. So both are hidden from agent and floor.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.figures import Aim, Figure, median, progress
from benchmarks.world import World, cpu_seconds, memory_kib
from lab.processes import BIN, StepFailed, wait_until

STARTS = 15
MEMORY_RUNS = 3
SETTLED_SECONDS = 3.0
"""Wait after the agent's first contact, until its memory is stable."""
READY_SECONDS_MAX = 60.0
FLOOR_IMPORTS = "trio, httpx, cryptography, tpm2_pytss"
FLOOR_NAME = "an interpreter that imports trio, httpx, cryptography and tpm2-pytss"
_FAPI = "import ctypes\nctypes.CDLL('libtss2-fapi.so.1')\n"
"""tpm2-pytss as its authors build it links FAPI. tools/setup.sh leaves FAPI out, which is a saving of the agent."""
CHECKOUT = Path(__file__).resolve().parent.parent
_IMPORTS = f"import {FLOOR_IMPORTS}, os, socket, signal\n"
_USE = """\
import ssl, pyudev
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
key.public_key().verify(key.sign(b"", ec.ECDSA(hashes.SHA256())), b"", ec.ECDSA(hashes.SHA256()))
context, devices = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pyudev.Context()
"""
_REFRESHING = """\
import sys
from node.exchanges import contact, schedule
refresh, done = contact.Contact.refresh_trust, sys.argv.pop()
async def refresh_trust(self):
    await refresh(self)
    open(done, "w").close()
contact.Contact.refresh_trust = refresh_trust
schedule.first_trust_refresh_seconds = lambda random: 0.0
from node.cli.main import main
sys.exit(main(["run"]))
"""
"""An agent whose first update of the published trust comes at once, and not within its first hour."""
_TELL_READY = (
    "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\nsignal.pause()\n"
)


class Started:
    """Seconds from the start of a process until READY=1: by the wall clock, and of its CPU time.

    `answered` is when the agent's socket has answered for the first time.
    """

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path) -> None:
        address = directory / "notify.sock"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, (directory / "started.log").open("w") as log:
            receiver.bind(str(address))
            receiver.settimeout(READY_SECONDS_MAX)
            environment = {**os.environ, **environment, "NOTIFY_SOCKET": str(address)}
            began = time.perf_counter()
            self._child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            said = b""
            with suppress(TimeoutError):
                # The agent also tells its watchdog that it lives, while a slow start settles.
                while b"READY=1" not in said:
                    said = receiver.recv(4096)
            self.seconds = self.answered = time.perf_counter() - began
        self.status = said.partition(b"STATUS=")[2].decode()
        if b"READY=1" not in said:
            self.stop()
            raise StepFailed(f"{command[0]} was not ready: {(directory / 'started.log').read_text()[-1500:]}")
        self.cpu = cpu_seconds(self._child.pid)

    @property
    def pid(self) -> int:
        return self._child.pid

    def stop(self) -> None:
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(10)


def _as_shipped(directory: Path) -> dict[str, str]:
    """An environment for the code of this checkout, in which only the libraries of a customer's machine can be imported.

    Other libraries import these four if they are installed.
    """
    hidden = directory / "as-shipped"
    hidden.mkdir(exist_ok=True)
    for name in ("asn1crypto", "click", "pkcs11", "rich"):
        (hidden / f"{name}.py").write_text('raise ImportError("not on a customer\'s machine")\n')
    return {"PYTHONPATH": os.pathsep.join((str(hidden), str(CHECKOUT)))}


class _Starts:
    """Starts the floor and the agent."""

    def __init__(self, world: World) -> None:
        world.installed()
        self._world = world
        self._shipped = _as_shipped(world.directory)
        self.extra: dict[str, str] = {}
        self.status: Any = None
        """The status that the last agent has answered."""

    def _python(self, code: str) -> Started:
        return Started([sys.executable, "-c", code + _TELL_READY], self._shipped, self._world.directory)

    def floor(self) -> Started:
        return self._python(_IMPORTS)

    def default_floor(self) -> Started:
        """The floor, with FAPI as in a default build of tpm2-pytss."""
        return self._python(_IMPORTS + _FAPI)

    def used_floor(self) -> Started:
        """The floor, after it has used its libraries once for the kinds of work of every agent."""
        return self._python(_IMPORTS + _USE)

    def refreshed(self) -> Started:
        """As `agent`. It has updated the published trust."""
        done = self._world.directory / "refreshed"
        done.unlink(missing_ok=True)
        started = self.agent([sys.executable, "-c", _REFRESHING, str(done)])
        wait_until("an update of the published trust", done.exists)
        return started

    def agent(self, command: Sequence[str] = (str(BIN / "cascadia"), "run")) -> Started:
        self._world.machine.socket.unlink(missing_ok=True)
        environment = self._shipped | self._world.machine.env
        started = Started([*command], environment | self.extra, self._world.directory)
        if not started.status.startswith("active"):
            started.stop()
            raise StepFailed(f"the agent is {started.status!r}, not active")
        began = time.perf_counter()
        self.status = self._world.machine.ask("/v1/status")
        started.answered += time.perf_counter() - began
        return started

    def online(self) -> Started:
        """As `agent`. Before READY it has opened a session with the cloud."""
        started = self.agent()
        if not self.status["last_contact_at"]:
            started.stop()
            raise StepFailed("the agent has no contact with the cloud")
        return started


def _times(start: Callable[[], Started]) -> tuple[float, float, float]:
    started = start()
    started.stop()
    return started.seconds, started.cpu, started.answered


def start(world: World) -> list[Figure]:
    """Measure from the exec of `cascadia run` to READY=1, with a stored lease: without the cloud, then with it.

    The agent uses the chip without tpm2-abrmd, as in `memory`.
    """
    starts = _Starts(world)
    with _direct(world, starts):
        world.cloud.down()
        progress(f"agent start: {STARTS} starts on a cached lease, the cloud gone, each beside its floor")
        offline = _compared(starts.floor, starts.agent, "agent start", Aim(1.3))
        world.cloud_up()
        progress(f"agent start: {STARTS} starts with the cloud, each beside its floor")
        return [*offline, *_compared(starts.floor, starts.online, "agent start with the cloud")]


@contextmanager
def _direct(world: World, starts: _Starts) -> Iterator[None]:
    """Connect the agents of the block to the chip without tpm2-abrmd.

    In production the agent has a file descriptor of the kernel's resource manager. The client library of tpm2-abrmd
    loads GLib and D-Bus, 4 MiB that no customer's machine loads.
    """
    world.chip.stop_resource_manager()
    starts.extra = {"CASCADIA_TPM": f"swtpm:path={world.chip.raw_socket}"}
    try:
        yield
    finally:
        world.chip.restart_resource_manager()


def _compared(
    floor: Callable[[], Started], agent: Callable[[], Started], name: str, aim: Aim | None = None
) -> list[Figure]:
    """The times of an agent's start beside those of its floor: on the wall, of CPU, and until the first answer."""
    _times(floor), _times(agent)  # the first of each fills the page cache
    floors, agents = [], []
    for _ in range(STARTS):
        # In turns, so that other load on the machine affects both alike.
        floors.append(_times(floor))
        agents.append(_times(agent))
    ready, cpu, answered = (
        [median([times[which] for times in side]) * 1000 for side in (agents, floors)] for which in range(3)
    )
    note = (
        f"medians of {STARTS} of each, taken in turns; slowest start {max(times[0] for times in agents) * 1000:.0f} ms"
    )
    return [
        Figure(
            name=f"{name} to READY", value=ready[0], unit="ms", floor=ready[1], floor_name=FLOOR_NAME, aim=aim,
            note=note,
        ),
        Figure(name=f"{name}, CPU time", value=cpu[0], unit="ms", floor=cpu[1]),
        Figure(name=f"{name} to the first answer", value=answered[0], unit="ms", floor=answered[1]),
    ]  # fmt: skip


def memory(world: World) -> list[Figure]:
    """Measure RSS and PSS of an agent with a session and an open wake channel."""
    starts = _Starts(world)
    world.cloud_up()
    progress(f"agent memory: {MEMORY_RUNS} agents with a session, settled for {SETTLED_SECONDS:g} s")
    kinds = {
        "default floor": starts.default_floor,
        "floor": starts.floor,
        "used floor": starts.used_floor,
        "agent": starts.agent,
        "refreshed": starts.refreshed,
    }
    sizes: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    with _direct(world, starts):
        for _ in range(MEMORY_RUNS):
            for name, begin in kinds.items():
                started = begin()
                try:
                    time.sleep(SETTLED_SECONDS)
                    if name == "agent" and not world.machine.ask("/v1/status")["last_contact_at"]:
                        raise StepFailed("the agent has no contact with the cloud")
                    sizes[name].append(memory_kib(started.pid))
                finally:
                    started.stop()
    rss, pss = ({name: median([run[which] for run in runs]) / 1024 for name, runs in sizes.items()} for which in (0, 1))
    measured, default = rss["agent"], f"{FLOOR_NAME} with FAPI, its default"
    return [
        Figure(
            name="agent memory, RSS", value=measured, unit="MiB", floor=rss["default floor"], floor_name=default,
            aim=Aim(1.25), note="with a session and an open wake channel, connected to the chip directly",
        ),
        Figure(name="agent memory, PSS", value=pss["agent"], unit="MiB", floor=pss["default floor"]),
        Figure(
            name="agent memory, RSS, beside the agent's libraries", value=measured, unit="MiB", floor=rss["floor"],
            floor_name="the same interpreter without FAPI",
        ),
        Figure(
            name="agent memory, RSS, beside used libraries", value=measured, unit="MiB", floor=rss["used floor"],
            floor_name="the same without FAPI, which has also verified a signature and made a TLS context",
        ),
        Figure(
            name="agent memory, RSS, after an update of the trust", value=rss["refreshed"], unit="MiB",
            floor=rss["default floor"], note="an agent updates the published trust in its first hour, then daily",
        ),
    ]  # fmt: skip
