"""NATS killed, slow, partitioned, full and killed again under load: the copy catches up, and no other call notices.

A real cloud on PostgreSQL copies events to a real NATS server through a proxy. A second process of Fabric's database
adds events all the time. An operator and a node call Fabric in each part, and their times are compared with those of
the first part. At the end the stream has every event, in the order of each object. Needs root, for a small disk.
`tests/cloud/events/nats` has one row of each kind.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path

import msgspec
from cloudevents.core.formats.json import JSONFormat

from cloud.clock import utc_now
from cloud.events.outbox import Outbox
from cloud.storage import Location
from cloud.storage.database import open_database
from lab.cloud import Cloud
from lab.nats import NatsServer
from lab.postgres import Cluster
from lab.processes import free_ports, wait_until
from tests.cloud.events.nats.support import stored
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.simulators.forged_evidence import maker
from tests.system.support.harness import new_cloud
from tests.system.support.paper_node import PaperNode
from tests.system.support.replicas import CODE, Operator, open_session
from tests.system.test_postgresql import address
from tests.system.test_service_revocation import settings_of

USUAL_TIME = "3 min"
MINUTES_MAX = 20.0

TENANT = "tnt_drill"
OBJECTS = 20
PAUSE_SECONDS = 0.02
SLOW_BYTES = 8 * 1024
"""Bytes a second through the slow proxy: less than the events take."""
DISK = "24m"
STREAM_BYTES = 8 * 1024 * 1024
KILLS = 5
SESSION_EVERY = 5
CATCH_UP_SECONDS = 120.0
WAITING = "SELECT COUNT(*) AS n FROM event_outbox WHERE position IS NULL"
RATIO_MAX = 3.0
"""The machine has other work: a call that waited for NATS would take seconds instead of milliseconds."""


class Body(msgspec.Struct, frozen=True):
    """The body of the drill's events."""

    number: int


class Load:
    """Adds events to Fabric's outbox in a thread, as another replica does."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.added = 0

    async def _run(self) -> None:
        async with open_database("fabric", self._location) as engine:
            outbox = Outbox(engine, "fabric", utc_now, entropy=os.urandom)
            while not self._stopping.is_set():
                object_id = f"object-{self.added % OBJECTS}"
                async with engine.transaction(f"thing:{object_id}"):
                    await outbox.add("thing", object_id, "changed", Body(self.added), tenant=TENANT)
                self.added += 1
                await asyncio.sleep(PAUSE_SECONDS)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)


class Proxy:
    """The way from the cloud to NATS. `mode` is "open", "slow" or "drop"; "drop" keeps all connections open."""

    def __init__(self, target: int) -> None:
        self.port = free_ports(1)
        self.mode = "open"
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2048):
                while self.mode == "drop":  # noqa: ASYNC110  (a mode has no event)
                    await asyncio.sleep(0.05)
                if self.mode == "slow":
                    await asyncio.sleep(len(data) / SLOW_BYTES)
                writer.write(data)
                await writer.drain()
        writer.close()


class Site:
    """The cloud, its database, NATS behind a proxy, and the callers."""

    def __init__(self, scratch: Path, cluster: Cluster, server: NatsServer, proxy: Proxy) -> None:
        self.cluster, self.server, self.proxy = cluster, server, proxy
        self.location = cluster.create()
        options = {"--fabric-database": self.location, "--breakwater-database": cluster.create()}
        self.cloud: Cloud = new_cloud(scratch / "cloud").init(
            *chain.from_iterable((name, address(each)) for name, each in options.items())
        )
        settings = settings_of(self.cloud, "fabric")
        (settings.parent / "nats.creds").touch(mode=0o600)
        (settings.parent / "nats.creds").write_bytes(server.credentials("fabric").read_bytes())
        settings.write_text(
            f'{settings.read_text()}\n\n[nats]\nurl = "tls://127.0.0.1:{proxy.port}"\nca_file = "{server.ca_file}"\n'
            f"stream_bytes = {STREAM_BYTES}\n"
        )
        self.cloud.up()
        self._operator = Operator(self.cloud, Path(self.cloud.env["CASCADE_TOKEN_FILE"]).read_text().strip())
        tenant = self._operator.ask("POST", "/v1/tenants", {"name": "drill"}).into(dict)["id"]
        roots = (maker().root.pem + maker().intermediate.pem).decode()
        self._operator.ask("POST", f"/v1/tenants/{tenant}/trust/ek-roots", {"pem": roots}).into(dict)
        code = self._operator.ask("POST", f"/v1/tenants/{tenant}/codes", CODE).into(dict)["secret"]
        self._paper = PaperNode(self.cloud, "drill").join(code)
        self._node = Operator(self.cloud)
        self.count: Counter[str] = Counter()
        self._turn = 0
        self.load_ended = False

    def call(self) -> tuple[str, float]:
        """Make one call: a change of an operator, or a session of a node. Returns its kind and its seconds."""
        self._turn += 1
        began = time.monotonic()
        if self._turn % SESSION_EVERY == 0:
            open_session(self._node, self._paper, self.cloud, self.count)
            return "session", time.monotonic() - began
        self._operator.ask("POST", "/v1/tenants", {"name": f"drill {self._turn}"}).into(dict)
        return "operator", time.monotonic() - began

    def calls(self, seconds: float) -> dict[str, float]:
        """Call for some time. Returns the median time of each kind, in seconds."""
        taken: dict[str, list[float]] = {"operator": [], "session": []}
        until = time.monotonic() + seconds
        while time.monotonic() < until or min(map(len, taken.values())) < SESSION_EVERY:
            kind, each = self.call()
            taken[kind].append(each)
            time.sleep(0.02)
        return {kind: statistics.median(each) for kind, each in taken.items()}

    def head(self) -> int:
        return self._number("SELECT COALESCE(MAX(position), 0) AS n FROM event_outbox")

    def copied(self) -> int:
        return self._number("SELECT COALESCE(MAX(position), 0) AS n FROM event_copy")

    def _number(self, sql: str) -> int:
        return int(self.cluster.rows(self.location.name, sql)[0]["n"])

    def catch_up(self) -> float:
        """Wait until every event of now is copied. Returns the seconds."""
        began = time.monotonic()
        if self.load_ended:
            wait_until("a position of every event", lambda: not self._number(WAITING))
        head = self.head()
        wait_until("the copy of all events", lambda: self.copied() >= head, CATCH_UP_SECONDS)
        return time.monotonic() - began


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the length of the parts."""
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each part (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run each part, and compare its calls with those before."""
    if os.geteuid() != 0:
        raise CannotRun("a disk that is full needs root: run `sudo make drills PART=nats`")
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-nats-")))
        cluster = Cluster()
        stack.callback(cluster.remove)
        server = NatsServer(scratch / "nats")
        disk = stack.enter_context(_small_disk(scratch / "nats" / "streams"))
        server.start()
        stack.callback(server.kill)
        proxy = Proxy(server.port)
        proxy.start()
        stack.callback(proxy.stop)
        site = Site(scratch, cluster, server, proxy)
        stack.callback(site.cloud.down)
        load = Load(site.location)
        load.start()
        stack.callback(load.stop)
        site.catch_up()
        before = site.calls(options.seconds)
        figures |= {f"before: {kind} call, ms": round(each * 1000, 1) for kind, each in before.items()}
        figures["before: catching up, s"] = round(site.catch_up(), 2)
        parts: dict[str, Callable[[], object]] = {"killed": server.kill, "slow": lambda: _set(proxy, "slow")}
        parts |= {"partitioned": lambda: _set(proxy, "drop"), "full": lambda: _fill(disk)}
        ends: dict[str, Callable[[], object]] = {"killed": server.start, "slow": lambda: _set(proxy, "open")}
        ends |= {"partitioned": lambda: _set(proxy, "open"), "full": (disk / "filler").unlink}
        for name, begin in parts.items():
            begin()
            during = site.calls(options.seconds)
            behind = site.head() - site.copied()
            ends[name]()
            if name == "full":
                # A server whose disk was full closes its stream until it is started again.
                server.kill()
                server.start()
            _note(name, before, during, behind, site.catch_up(), figures, findings)
            say(f"{name}: {behind} events behind, caught up")
        for _ in range(KILLS):
            server.kill()
            server.start()
            site.calls(options.seconds / KILLS)
        figures[f"{KILLS} kills under load: catching up, s"] = round(site.catch_up(), 2)
        load.stop()
        site.load_ended = True
        site.catch_up()
        _compare(site, load, figures, findings)
    return Outcome(figures, tuple(findings))


def _set(proxy: Proxy, mode: str) -> None:
    proxy.mode = mode


def _fill(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _note(
    name: str,
    before: dict[str, float],
    during: dict[str, float],
    behind: int,
    seconds: float,
    figures: dict[str, Figure],
    findings: list[str],
) -> None:
    figures[f"{name}: events behind"] = behind
    figures[f"{name}: catching up, s"] = round(seconds, 2)
    for kind, each in during.items():
        ratio = each / before[kind]
        figures[f"{name}: {kind} call, of before"] = round(ratio, 2)
        if ratio > RATIO_MAX:
            findings.append(f"{name}: a call of {kind} takes {ratio:.1f} times as long as before")
    if not behind:
        findings.append(f"{name}: the copy did not fall behind, so the part shows nothing")


def _compare(site: Site, load: Load, figures: dict[str, Figure], findings: list[str]) -> None:
    """The stream has every event, and each object's events come in their order the first time."""
    events = [JSONFormat().read(None, message.data).get_attributes() for message in asyncio.run(stored(site.server))]
    rows = site.cluster.rows(site.location.name, "SELECT id, subject, sequence FROM event_outbox WHERE tenant <> ''")
    found = Counter(event["id"] for event in events)
    missing = {row["id"] for row in rows} - found.keys()
    if missing:
        findings.append(f"{len(missing)} of {len(rows)} events are not in the stream")
    if load.added > len(rows):
        findings.append(f"{load.added - len(rows)} added events are not in the outbox")
    seen: dict[str, int] = {}
    met: set[str] = set()
    for event in events:
        if event["id"] in met:
            continue
        met.add(event["id"])
        sequence = int(event["sequence"])
        if sequence != seen.get(event["subject"], 0) + 1:
            findings.append(f"{event['subject']}: {sequence} follows {seen.get(event['subject'], 0)}")
        seen[event["subject"]] = sequence
    figures["events"] = len(rows)
    figures["events that came twice"] = sum(count > 1 for count in found.values())
    figures["sessions"] = site.count["sessions"]
