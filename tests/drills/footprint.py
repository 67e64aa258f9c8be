"""The agent beside Debian's mender-client and puppet-agent in one container: size, CPU, wake-ups, memory, network.

All three run as their packages start them, with the defaults of their makers. The agent is active, with an open wake
channel to a cloud of this machine. mender-client polls a server that refuses it (401). puppet-agent has no server, and
asks for one. Needs root and a network.

The agent's connections go through a relay that counts their bytes, and the bytes of mender-client are counted by its
server: TCP payload with TLS, without the headers of TCP and IP. A day is the measured time, scaled. puppet-agent opens
no connection. The agent uses a software TPM behind tpm2-abrmd, whose library adds 3 MiB that a TPM device does not.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from lab.cloud import PORTS, Cloud
from lab.debian_root import debian_root
from lab.nspawn import Container, missing_packages
from lab.processes import ended, free_ports, wait_until
from lab.tpm import SoftTpm
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tools.packages import root

USUAL_TIME = "20 min"
MINUTES_MAX = 90.0

REPOSITORY = Path(__file__).parent.parent.parent
UNITS = {"cascadia": "cascadia", "mender-client": "mender-client", "puppet-agent": "puppet"}
"""Debian package -> its unit."""
CLOUD, NEAR = "127.0.0.1", "127.0.0.2"
"""Where the cloud listens, and where the container looks for it: `localhost` is NEAR there."""
SETTLED_SECONDS = 60.0
SECONDS_A_DAY = 86_400
COMMANDS_SECONDS_MAX = 180.0
SAMPLE = """
import json, os, pathlib, sys
def family(pid):
    yield pid
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(child)
def number(path, name):
    return sum(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))
found = {}
for unit in sys.argv[1:]:
    main = os.popen(f"systemctl show --property=MainPID --value {unit}").read().strip()
    pids = [pathlib.Path(f"/proc/{pid}") for pid in family(main)] if main != "0" else []
    stats = [(pid / "stat").read_text().rpartition(")")[2].split() for pid in pids]
    found[unit] = {
        "processes": len(pids),
        "cpu": sum(int(each[11]) + int(each[12]) for each in stats) / os.sysconf("SC_CLK_TCK"),
        "wakes": sum(number(task / "status", "voluntary_ctxt") for pid in pids for task in (pid / "task").iterdir()),
        "rss": sum(number(pid / "smaps_rollup", "Rss:") for pid in pids),
        "pss": sum(number(pid / "smaps_rollup", "Pss:") for pid in pids),
    }
print(json.dumps(found))
"""
"""Reads the processes of units: CPU seconds, voluntary switches of all threads, memory in KiB."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the time of the measurement, the package, and where roots and the parts of packages are kept."""
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to measure (default: %(default)s)")
    parser.add_argument("--package", type=Path, help="the deb of the agent for Debian 12 (default: build it)")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "build", help="keeps what is made (default: build)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Install, start, settle, measure."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if missing := sorted({*missing_packages(), *root.missing_packages(root.NEEDED)}):
        raise CannotRun(f"programs are missing. Run `apt-get install {' '.join(missing)}`")
    with (
        tempfile.TemporaryDirectory(prefix="cascade-footprint-", dir="/var/tmp", ignore_cleanup_errors=True) as name,
        ExitStack() as ends,
    ):
        folder = Path(name)
        say("the package and the container")
        package = options.package or _built(options.cache, folder / "dist")
        home = debian_root(options.cache / "roots", "bookworm")
        chip = SoftTpm(folder / "chip")
        chip.manufacture()
        host = ends.enter_context(Container(folder / "host", home, "footprint"))
        host.start()
        host.checked("apt-get", "update", "--quiet")
        figures: dict[str, Figure] = {}
        _sizes(host, package, figures)
        say("the agent and its cloud")
        cloud = Cloud(folder, seconds=COMMANDS_SECONDS_MAX)
        ends.enter_context(ended(cloud))
        cloud.init("--host", "localhost", "--bind", CLOUD).up()
        relay = ends.enter_context(Relay(range(cloud.port, cloud.port + PORTS)))
        host.write("/etc/hosts", f"{NEAR} localhost\n")
        host.install(package, seconds=COMMANDS_SECONDS_MAX)
        host.start_tpm(chip.directory)
        host.write("/root/activation.json", cloud.code(cloud.tenant(chip)).read_bytes(), 0o600)
        if (done := host.cascadia("activate", "/root/activation.json", seconds=COMMANDS_SECONDS_MAX)).status != 0:
            return Outcome(figures, (f"the agent does not activate: {done.out}{done.error}",))
        say("mender-client and puppet-agent")
        stub = ends.enter_context(Refusing(free_ports(1)))
        _start_others(host, stub.port)
        wait_until(
            "the agent", lambda: host.shown("cascadia", "ActiveState")["ActiveState"] == "active", COMMANDS_SECONDS_MAX
        )
        time.sleep(SETTLED_SECONDS)
        say(f"measuring for {options.minutes:g} minutes")
        _measure(host, options.minutes * 60, {"cascadia": relay, "mender-client": stub}, figures)
        figures["cascadia, bytes since its activation"] = relay.count
    findings = [f"{name} did not run" for name in UNITS if not figures[f"{name}, processes"]]
    if not relay.count or not stub.count:
        findings.append("the agent or mender-client passed its counter by")
    return Outcome(figures, tuple(findings))


def _built(cache: Path, to: Path) -> Path:
    command = [sys.executable, "-m", "tools.packages", "--only", "cascadia", "--target", "debian12"]
    command += ["--to", str(to), "--cache", str(cache / "packages")]
    if subprocess.run(command, check=False, cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode != 0:
        raise CannotRun("the package cannot be built. See the text above")
    return next(to.rglob("cascadia_*.deb"))


def _sizes(host: Container, package: Path, figures: dict[str, Figure]) -> None:
    """The installed size of each package, and of all that it needs beyond the packages that every Debian has."""
    host.write("/root/cascadia.deb", package.read_bytes())
    listed = host.checked("dpkg-query", "-W", "-f=${Package} ${Priority} ${Essential}\n").splitlines()
    everywhere = {line.split()[0] for line in listed if {"required", "yes"} & set(line.split()[1:])}
    own = int(host.checked("dpkg-deb", "-f", "/root/cascadia.deb", "Installed-Size"))
    for name in UNITS:
        wanted = "/root/cascadia.deb" if name == "cascadia" else name
        # With no package installed, apt names all that is needed.
        plan = ("apt-get", "-s", "-o", "Dir::State::status=/dev/null", "install", "--no-install-recommends", wanted)
        needed = {line.split()[1] for line in host.checked(*plan).splitlines() if line.startswith("Inst ")}
        shown = host.checked("apt-cache", "show", "--no-all-versions", *sorted(needed - everywhere - {"cascadia"}))
        sizes = dict(_size(text) for text in shown.split("\n\n") if text.strip())
        if name == "cascadia":
            sizes[name] = own
        figures[f"{name}, installed size, MB"] = round(sizes[name] * 1024 / 1e6, 1)
        figures[f"{name}, with all that it needs, MB"] = round(sum(sizes.values()) * 1024 / 1e6, 1)
        figures[f"{name}, packages that it needs"] = len(sizes) - 1


def _size(text: str) -> tuple[str, int]:
    """Name and installed size in KiB, of a package that `apt-cache show` prints."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if line[:1].isalpha() and ": " in line)
    return fields["Package"], int(fields.get("Installed-Size", 0))


def _start_others(host: Container, port: int) -> None:
    """Install and start both, with the least that each needs to run: an identity, and a server for mender-client."""
    for name, text in {
        "/etc/mender/mender.conf": json.dumps({"ServerURL": f"http://{CLOUD}:{port}"}),
        "/etc/mender/artifact_info": "artifact_name=drill\n",
        "/var/lib/mender/device_type": "device_type=drill\n",
    }.items():
        host.write(name, text)
    host.write("/usr/share/mender/identity/mender-device-identity", "#!/bin/sh\necho mac=02:00:00:00:00:01\n", 0o755)
    names = ("mender-client", "puppet-agent")
    install = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends")
    host.checked(*install, *names, seconds=1200.0)
    for name in names:
        host.checked("systemctl", "enable", "--now", UNITS[name])


def _measure(host: Container, seconds: float, traffic: dict[str, "Counter"], figures: dict[str, Figure]) -> None:
    """Two samples, and the difference."""

    def sample() -> tuple[dict[str, Any], dict[str, int], float]:
        found = json.loads(host.checked("python3", "-c", SAMPLE, *UNITS.values()))
        return found, {name: each.count for name, each in traffic.items()}, time.monotonic()

    before, sent_before, began = sample()
    time.sleep(seconds)
    after, sent_after, end = sample()
    took = end - began
    for name, unit in UNITS.items():
        first, last = before[unit], after[unit]
        figures[f"{name}, processes"] = last["processes"]
        figures[f"{name}, CPU, ms a minute"] = round((last["cpu"] - first["cpu"]) * 60_000 / took, 1)
        figures[f"{name}, wake-ups a minute"] = round((last["wakes"] - first["wakes"]) * 60 / took, 1)
        figures[f"{name}, RSS, MiB"] = round(last["rss"] / 1024, 1)
        figures[f"{name}, PSS, MiB"] = round(last["pss"] / 1024, 1)
        if name in traffic:
            sent = sent_after[name] - sent_before[name]
            figures[f"{name}, bytes in the measured time"] = sent
            figures[f"{name}, kB a day, scaled"] = round(sent * SECONDS_A_DAY / took / 1000, 1)


class Counter:
    """Servers in a thread of their own. `count` are the bytes of their connections, in both directions."""

    def __init__(self, ports: range) -> None:
        self.count = 0
        self._ports = ports
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    address = CLOUD

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client may end its connection at any time
        finally:
            writer.close()

    async def _listen(self) -> None:
        for port in self._ports:
            await asyncio.start_server(self._serve, self.address, port)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


class Relay(Counter):
    """Passes the connections to NEAR on to the same port of CLOUD."""

    address = NEAR

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to the cloud, and pass bytes until an end closes."""
        near, far = await asyncio.open_connection(CLOUD, writer.get_extra_info("sockname")[1])
        try:
            await asyncio.gather(self._pass(reader, far), self._pass(near, writer))
        finally:
            far.close()

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            self.count += len(data)
            to.write(data)
            await to.drain()
        to.write_eof()


class Refusing(Counter):
    """A server that answers every request with 401, as mender's server answers a device that waits to be accepted."""

    ANSWER = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n"
    BODY = b'{"error":"unauthorized"}'

    def __init__(self, port: int) -> None:
        super().__init__(range(port, port + 1))
        self.port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the client closes the connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
            self.count += len(head) + len(body) + len(self.ANSWER) + len(self.BODY)
            writer.write(self.ANSWER + self.BODY)
            await writer.drain()
