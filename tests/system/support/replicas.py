"""Two Fabrics and two Breakwaters on one PostgreSQL, as processes, and workers that send changes to them.

A worker has a connection, a node and codes for itself, and remembers the last answer about each. So after a kill or a
restart the database can be compared with the answers: an answered change is stored, and a change without an answer is
stored as a whole or not at all.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Self

import msgspec
from cryptography import x509

from cloud.breakwater.store.issuance import serial_text
from cloud.process.settings import database_toml
from cloud.storage import PostgresLocation
from lab.cloud import PORTS as PORTS_OF_A_CLOUD
from lab.cloud import Cloud
from lab.postgres import Cluster, fill
from lab.processes import free_ports
from protocol.ids import ServiceName
from protocol.messages.activation import Challenge
from protocol.messages.sessions import Ask, Nonce, Session
from tests.documented import codes_below
from tests.simulators.forged_evidence import maker, request
from tests.system.support.harness import new_cloud
from tests.system.support.paper_node import SESSIONS, PaperNode
from tests.system.support.wire import Answer, Closed, Identity, Wire, new_key
from tests.system.test_postgresql import address
from tests.system.test_service_revocation import Pair, settings_of

_PORT = re.compile(r"^port = ([0-9]+)\n", re.MULTILINE)
CONNECTIONS = 4
"""Connections of each replica to the database. Few, so that commits and not the processors are the limit."""
RETRY_SECONDS = 0.1
SERVICES: tuple[ServiceName, ...] = ("breakwater", "fabric")
SESSION_EVERY, ACTIVATION_EVERY = 4, 8
"""Turns of a worker between two sessions, and between two activations."""


class Replicas:
    """An installation on PostgreSQL, its two replicas, and the server with its databases.

    `databases` are the addresses by service. `end` ends the processes, and leaves the server to its owner.
    """

    def __init__(
        self, scratch: Path, cluster: Cluster, cloud: Cloud, databases: Mapping[ServiceName, PostgresLocation]
    ) -> None:
        self.cluster = cluster
        self.databases = databases
        self.cloud = cloud
        self.other = self._copy(scratch / "two")
        self.pairs = [Pair(self.cloud, scratch / "processes-one"), Pair(self.other, scratch / "processes-two")]
        self.token = Path(self.cloud.env["CASCADE_TOKEN_FILE"]).read_text().strip()
        self.tenant = ""

    def start(self) -> Self:
        """Start all processes, and make the tenant of the workers."""
        # The clients compare refusals with the API document. A thread that makes the document stops the other workers
        # for a second, and Python 3.11 cannot parse source in two threads at a time (python/cpython#106905).
        codes_below("fabric", "/v1/")
        with ExitStack() as stack:
            stack.callback(self.end)
            for pair in self.pairs:
                pair.begin("breakwater", "fabric")
            for pair in self.pairs:
                pair.wait("breakwater", "fabric")
            operator = Operator(self.cloud, self.token)
            self.tenant = str(operator.ask("POST", "/v1/tenants", {"name": "paper"}).into(dict)["id"])
            roots = (maker().root.pem + maker().intermediate.pem).decode()
            operator.ask("POST", f"/v1/tenants/{self.tenant}/trust/ek-roots", {"pem": roots}).into(dict)
            operator.close()
            stack.pop_all()
        return self

    def _copy(self, scratch: Path) -> Cloud:
        other = new_cloud(scratch).copy_from(self.cloud)
        other.port = free_ports(PORTS_OF_A_CLOUD)
        for service in SERVICES:
            settings = settings_of(other, service)
            text = _PORT.sub(lambda found: self._moved(int(found[1]), other), settings.read_text())
            here, there = (f'breakwater_url = "https://127.0.0.1:{each.port + 1}"' for each in (self.cloud, other))
            settings.write_text(text.replace(here, there))
        return other

    def _moved(self, port: int, other: Cloud) -> str:
        """The line of a port; a port of the first replica becomes that of the other."""
        number = port - self.cloud.port
        return f"port = {other.port + number if 0 <= number < PORTS_OF_A_CLOUD else port}\n"

    @property
    def clouds(self) -> tuple[Cloud, Cloud]:
        return self.cloud, self.other

    def rows(self, sql: str, service: ServiceName = "fabric") -> list[dict[str, Any]]:
        """Rows of a service's database."""
        return self.cluster.rows(self.databases[service].name, sql)

    def writes(self) -> int:
        """How many audit entries there are. Each change that a worker makes leaves at least one."""
        return int(self.rows("SELECT COUNT(*) AS n FROM audit")[0]["n"])

    def set_commit_seconds(self, seconds: float) -> None:
        """Make each flush of commits take `seconds` longer, as on a slow disk. Commits that wait share a flush."""
        self.cluster.administer(
            f"ALTER SYSTEM SET commit_delay = {int(seconds * 1e6)}",
            "ALTER SYSTEM SET commit_siblings = 0",
            "SELECT pg_reload_conf()",
        )

    def end(self) -> None:
        """End all processes."""
        for pair in self.pairs:
            pair.end()


def few(location: PostgresLocation) -> PostgresLocation:
    """The address with `CONNECTIONS` connections for each process."""
    return msgspec.structs.replace(location, pool=CONNECTIONS)


def new_installation(scratch: Path, cluster: Cluster) -> Replicas:
    """Two replicas of a new installation, in new databases."""
    databases = {name: few(cluster.create()) for name in SERVICES}
    options = [(f"--{name}-database", f"{address(each)}&pool={each.pool}") for name, each in databases.items()]
    cloud = new_cloud(scratch / "one").init(*chain.from_iterable(options))
    return Replicas(scratch, cluster, cloud, databases)


def copied_installation(scratch: Path, cluster: Cluster, installation: Cloud) -> Replicas:
    """Two replicas of an installation on SQLite, in new databases with its rows."""
    cloud = new_cloud(scratch / "one").copy_from(installation)
    databases = {name: few(cluster.create()) for name in SERVICES}
    for name, location in databases.items():
        fill(name, location, installation.directory / name / "database.sqlite")
        settings = settings_of(cloud, name)
        rest, table, path = settings.read_text().partition("[database]")
        assert (table, path.strip()) == ("[database]", 'path = "database.sqlite"'), path
        settings.write_text(rest + database_toml(location))
    return Replicas(scratch, cluster, cloud, databases)


class Operator:
    """One connection of an operator or a node to a replica's Fabric. It connects again after each failure."""

    def __init__(
        self,
        cloud: Cloud,
        token: str = "",
        identity: Identity | None = None,
        answered: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`answered` is called after each answer with the seconds of the request, also of its new connection."""
        self.cloud = cloud
        self._answered = answered
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._identity = identity
        self._wire: Wire | None = None

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request. Raises OSError, Closed."""
        began = time.monotonic()
        try:
            if self._wire is None:
                self._wire = Wire(self.cloud, "fabric", self._identity)
            answer = self._wire.ask(method, path, body, self._headers)
        except (OSError, Closed):
            self.close()
            raise
        self._answered(time.monotonic() - began)
        return answer

    def begin(self, method: str, path: str) -> Callable[[], Answer]:
        """Send a request on the open connection. Returns the function that waits for its answer."""
        assert self._wire is not None
        self._wire.begin(method, path, None, self._headers)
        return self._wire.answer

    def close(self) -> None:
        if self._wire is not None:
            with suppress(OSError):
                self._wire.__exit__()
            self._wire = None


class Outcome(msgspec.Struct):
    """What a worker knows about one object: its last answered state, and a state that was asked without an answer."""

    answered: str = ""
    asked: str = ""


class Worker:
    """Sends one change after the other to one replica, until the part ends."""

    def __init__(self, replicas: Replicas, cloud: Cloud, number: int) -> None:
        self.cloud = cloud
        self.latencies: list[tuple[float, float]] = []
        """The time of each answer (monotonic), and how long its request took, in seconds."""
        self.serials: set[str] = set()
        """The serials (hex) of the certificates in answers."""
        self.outcomes: dict[str, Outcome] = {}
        self.count: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._replicas = replicas
        self._operator = Operator(cloud, replicas.token, answered=self._note)
        self._anonymous = Operator(cloud, answered=self._note)
        self._paper = PaperNode(replicas.cloud, f"worker {number}").join(self._code(replicas.cloud))
        self._paper.cloud = cloud  # from now on it asks this replica
        self.serials.add(serial_of(self._paper.device))
        self._turn = number

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping`. An unexpected answer ends the worker and is kept in `error`."""
        try:
            while not stopping.is_set():
                self._turn += 1
                for step in self._steps():
                    self._try(step)
        except BaseException as error:  # noqa: BLE001  the main thread reports it
            self.error = error
        finally:
            self._operator.close()
            self._anonymous.close()

    def _steps(self) -> list[Callable[[], None]]:
        steps = [lambda: self._stand("suspend", "suspended"), lambda: self._stand("resume", "active"), self._make_code]
        steps += [self._session] if self._turn % SESSION_EVERY == 0 else []
        return steps + ([self._activate] if self._turn % ACTIVATION_EVERY == 0 else [])

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (OSError, Closed):
            self.count["no answer"] += 1
            time.sleep(RETRY_SECONDS)

    def _note(self, seconds: float) -> None:
        self.latencies.append((time.monotonic(), seconds))

    def _change(self, of: str, state: str, path: str, body: object) -> Answer | None:
        """Ask for a change and keep its outcome. None after the documented 503."""
        outcome = self.outcomes.setdefault(of, Outcome())
        outcome.asked = state
        answer = self._operator.ask("POST", path, body)
        if answer.status == 503:
            assert answer.headers.get("retry-after"), "503 without Retry-After"
            self.count["503"] += 1
            time.sleep(RETRY_SECONDS)
            return None
        assert answer.status < 300, (path, answer.status, answer.body)
        self.count["changes"] += 1
        outcome.answered, outcome.asked = state, ""
        return answer

    def _stand(self, what: str, state: str) -> None:
        self._change(self._paper.node, state, f"/v1/nodes/{self._paper.node}/{what}", {"reason": "drill"})

    def _make_code(self) -> None:
        answer = self._operator.ask("POST", f"/v1/tenants/{self._replicas.tenant}/codes", CODE)
        if answer.status == 503:
            self.count["503"] += 1
            return
        code = answer.into(dict)["code"]["id"]
        self.outcomes[code] = Outcome("open")
        self.count["changes"] += 1
        self._change(code, "revoked", f"/v1/codes/{code}/revoke", None)

    def _code(self, cloud: Cloud) -> str:
        operator = Operator(cloud, self._replicas.token)
        made = operator.ask("POST", f"/v1/tenants/{self._replicas.tenant}/codes", CODE).into(dict)
        operator.close()
        return str(made["secret"])

    def _session(self) -> None:
        self._opened(self._paper)

    def _opened(self, paper: PaperNode) -> Identity | None:
        """Open a session of a node. None if it was refused."""
        identity = open_session(self._anonymous, paper, self._replicas.cloud, self.count)
        if identity is not None:
            self.serials.add(serial_of(identity.chain[0]))
        return identity

    def _activate(self) -> None:
        """Activate the same chip again and confirm: a new generation of the node."""
        again = PaperNode(self.cloud, self._paper.label)
        code = self._operator.ask("POST", f"/v1/tenants/{self._replicas.tenant}/codes", CODE)
        if code.status != 201:
            self.count[str(code.status)] += 1
            return
        body = {"code": code.into(dict)["secret"], "evidence": again.evidence(), "agent_version": "1.0"}
        started = self._anonymous.ask("POST", "/v1/activations", body)
        if started.status != 201:
            self.count[str(started.status)] += 1
            return
        challenge = started.into(Challenge)
        proved = self._anonymous.ask("POST", f"/v1/activations/{challenge.activation}/proof", again.proof(challenge))
        if proved.status != 200:
            self.count[str(proved.status)] += 1
            return
        again.activated = msgspec.json.decode(proved.body, type=type(self._paper.activated))
        self.serials.add(serial_of(again.device))
        identity = self._opened(again)
        if identity is None:
            return
        node = Operator(self.cloud, identity=identity, answered=self._note)
        try:
            confirmed = node.ask("POST", "/v1/node/confirm", Ask("n" * 32))
            self.count["confirmed" if confirmed.status == 200 else str(confirmed.status)] += 1
            if confirmed.status == 200:
                self._paper = again
                key = f"{again.node}.{again.activated.generation}" if again.activated else ""
                self.outcomes[key] = Outcome("confirmed")
        finally:
            node.close()


CODE = {"profile": "standard", "expires_at": "2034-01-01T00:00:00Z", "entitlements": ["press"], "seats": 1}


def serial_of(der: bytes) -> str:
    """The serial of a certificate as the issuer's records have it."""
    return serial_text(x509.load_der_x509_certificate(der).serial_number)


def open_session(via: Operator, paper: PaperNode, first: Cloud, count: Counter[str]) -> Identity | None:
    """Open a session of a node over a replica. The proof names the address that the installation publishes."""
    nonce = via.ask("POST", "/v1/node/nonces").into(Nonce).nonce
    key = new_key()
    body = paper.open_session(request(key), nonce=nonce, url=f"https://127.0.0.1:{first.port}{SESSIONS}")
    answer = via.ask("POST", SESSIONS, body)
    if answer.status != 200:
        count[f"sessions {answer.status}"] += 1
        assert answer.status in (403, 429, 503), (answer.status, answer.body)
        return None
    count["sessions"] += 1
    return Identity(key, answer.into(Session).certificate_chain)


@contextmanager
def working(workers: Sequence[Worker]) -> Iterator[None]:
    """Let the workers work inside the block. Raises the first error of a worker."""
    stopping = threading.Event()
    threads = [threading.Thread(target=worker.run, args=(stopping,), daemon=True) for worker in workers]
    with ExitStack() as stack:
        for thread in threads:
            stack.callback(thread.join, 40)
            thread.start()
        stack.callback(stopping.set)
        yield
    for worker in workers:
        if worker.error is not None:
            raise AssertionError(f"a worker ended: {worker.error!r}") from worker.error


def lost(replicas: Replicas, workers: Sequence[Worker]) -> list[str]:
    """The answered changes and certificates that the databases do not have, and states that no one asked for."""
    states = {row["id"]: row["standing"] for row in replicas.rows("SELECT id, standing FROM node")}
    states |= {
        row["id"]: "open" if row["revoked_at"] is None else "revoked"
        for row in replicas.rows("SELECT id, revoked_at FROM code")
    }
    # A later generation closes an earlier one, which was confirmed all the same.
    confirmed = replicas.rows("SELECT id FROM generation WHERE confirmed_at IS NOT NULL")
    states |= {row["id"]: "confirmed" for row in confirmed}
    found = [
        f"{name} is {states.get(name)}, answered was {outcome.answered}, asked {outcome.asked or 'nothing'}"
        for worker in workers
        for name, outcome in worker.outcomes.items()
        if outcome.answered and states.get(name) not in {outcome.answered, outcome.asked} - {""}
    ]
    signed = "SELECT serial FROM certificate WHERE certificate IS NOT NULL AND state IN ('issued', 'revoked')"
    stored = {row["serial"] for row in replicas.rows(signed, "breakwater")}
    unknown = set[str]().union(*(worker.serials for worker in workers)) - stored
    return found + [f"the certificate {serial} was answered and is not stored" for serial in sorted(unknown)]
