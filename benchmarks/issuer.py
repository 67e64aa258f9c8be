"""Benchmarks: Breakwater as one process on one core: sessions, devices, renewals, OCSP; on SQLite and on PostgreSQL.

Each request is for one certificate, over kept-alive mTLS. The certificate is linted, recorded before the signature and
stored before the answer. Sessions and devices are requested with Fabric's certificate. Renewals are requested over EST
with session certificates. The generations are opened before. The floor runs beside, and on PostgreSQL `cfssl serve`
(`benchmarks.rival`).
"""

import base64
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from benchmarks import rival, wire
from benchmarks.figures import Aim, Figure, median, progress
from benchmarks.fleet import Node, trust_of
from benchmarks.floor import FLOOR_NAME, BareIssuer, new_id, new_keys, per_cpu_second
from benchmarks.host import Postgres, Server, breakwater, others_elsewhere
from benchmarks.world import World
from cloud.contracts.breakwater import PATH_DEVICE, PATH_OPEN, PATH_SESSION, OpenGeneration
from cloud.mtls.chain import chain_to_pem
from cloud.mtls.identity import load_identity, make_csr
from protocol.ids import NodeId, TenantId
from protocol.messages.est import HEADER_REQUEST, PATH_SIMPLEREENROLL, TYPE_PKCS10, encode_base64
from protocol.messages.sessions import Certificate

COUNT = 1000
"""Certificates a run after the warm-up, each for a different node."""
CONNECTIONS = (1, 8, 32)
USUAL = 8
RENEWING_NODES = 32
RENEWALS_EACH = 24
RENEWALS_WARM_UP = 2
OCSP_COUNT = 2000
FLOOR_SLICE_SECONDS = 0.4
RIVAL_NAME = "cfssl serve, its database on the same PostgreSQL; plain HTTP where ours is mTLS"


class Client:
    """The load on one server, from Fabric, nodes and strangers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._trust = trust_of(server.directory)
        identity = load_identity(server.directory / "fabric" / "tls", server.directory / "secrets" / "passphrase")
        self._fabric = self._trust.context("breakwater", identity.chain_pem, identity.key)
        self._fleet: list[Node] = []

    def as_fabric(self, requests: list[bytes], connections: int) -> wire.Load:
        """Send requests with Fabric's certificate, over `connections` connections."""
        server = self._server
        return wire.run(
            requests, pid=server.pid, port=server.port, context=lambda: self._fabric, connections=connections,
            behind=server.database_seconds,
        )  # fmt: skip

    def open_fleet(self) -> None:
        """Enough nodes for a run: each certificate is for a different node."""
        tenant = TenantId(new_id("ten"))
        self._fleet = [Node(tenant, NodeId(new_id("node")), key) for key in new_keys(COUNT + wire.WARM_UP)]
        self.as_fabric([wire.post(PATH_OPEN, OpenGeneration(node.tenant, node.id, 1)) for node in self._fleet], USUAL)

    def devices(self, connections: int) -> wire.Load:
        """Request the first device certificate of each node."""
        asks = [wire.post(PATH_DEVICE, node.asks(f"device-{node.id}", node.key)) for node in self._fleet]
        return self.as_fabric(asks, connections)

    def sessions(self, connections: int) -> wire.Load:
        """Request session certificates, each for a new key."""
        keys = new_keys(len(self._fleet))
        asks = [
            wire.post(PATH_SESSION, node.asks(f"session-{connections}-{node.id}", key))
            for node, key in zip(self._fleet, keys, strict=True)
        ]
        return self.as_fabric(asks, connections)

    def renewals(self) -> wire.Load:
        """Renew device certificates over EST: one connection a node, with its session certificate."""
        lanes, warm_up = [], []
        for node in self._fleet[:RENEWING_NODES]:
            key = ec.generate_private_key(ec.SECP256R1())
            load = wire.run(
                [wire.post(PATH_SESSION, node.asks(f"renewing-{node.id}", key))], pid=self._server.pid,
                port=self._server.port, context=lambda: self._fabric, connections=1, warm_up=0,
            )  # fmt: skip
            chain = msgspec.json.decode(load.answers[0], type=Certificate)
            context = self._trust.context("breakwater", chain_to_pem(chain), key)
            body = encode_base64(make_csr(node.key))
            asks = [
                wire.message(PATH_SIMPLEREENROLL, body, TYPE_PKCS10, **{HEADER_REQUEST: f"renewal-{number}"})
                for number in range(RENEWALS_EACH + RENEWALS_WARM_UP)
            ]
            lanes.append(wire.Lane(context, asks[RENEWALS_WARM_UP:]))
            warm_up.append(wire.Lane(context, asks[:RENEWALS_WARM_UP]))
        server = self._server
        return wire.run_lanes(lanes, warm_up, pid=server.pid, port=server.port, behind=server.database_seconds)

    def statuses(self, devices: wire.Load, *, by_get: bool) -> wire.Load:
        """Ask OCSP about issued certificates, without nonces, in plaintext."""
        chains = [msgspec.json.decode(answer, type=Certificate).certificate_chain for answer in devices.answers]
        asks = [_ocsp_request(chain, by_get=by_get) for chain in chains]
        again = (asks * (OCSP_COUNT // len(asks) + 2))[: OCSP_COUNT + wire.WARM_UP]
        server = self._server
        return wire.run(
            again, pid=server.pid, port=server.pki_port, context=lambda: None, connections=USUAL,
            behind=server.database_seconds,
        )  # fmt: skip


def _ocsp_request(chain: tuple[bytes, ...], *, by_get: bool) -> bytes:
    leaf, issuer = (x509.load_der_x509_certificate(der) for der in chain[:2])
    made = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).build()
    der = made.public_bytes(serialization.Encoding.DER)
    if by_get:
        return wire.get("/ocsp/" + base64.b64encode(der).decode().replace("/", "%2F").replace("+", "%2B"))
    return wire.message("/ocsp", der, "application/ocsp-request")


class _Floor:
    """The floor's loop. A part of it runs beside each run, so that other load affects both alike."""

    def __init__(self, directory: Path) -> None:
        self._issuer = BareIssuer(directory)
        self._csrs = [make_csr(key) for key in new_keys(100)]
        self._rates: list[float] = []

    def slice(self) -> None:
        self._rates.append(per_cpu_second(self._issuer.issue, self._csrs, FLOOR_SLICE_SECONDS))

    @property
    def rate(self) -> float:
        return median(self._rates)


class _Run(msgspec.Struct, frozen=True):
    name: str
    load: wire.Load
    has_floor: bool = True
    aim: Aim | None = None


def _figures(server: Server, floor: float, runs: list[_Run]) -> list[Figure]:
    engine = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[server.engine]
    return [
        Figure(
            name=f"{run.name}, {engine}",
            value=run.load.per_server_second,
            unit="/s",
            floor=floor if run.has_floor else None,
            floor_name=FLOOR_NAME if run.aim else "",
            aim=run.aim,
            note=cost_of(run.load),
        )
        for run in runs
    ]


def cost_of(load: wire.Load) -> str:
    """CPU time of a request for server and database, and the rate that the client saw."""
    behind = f", {load.behind_ms:.2f} ms of its database's" if load.behind_seconds else ""
    return f"{load.server_ms:.2f} ms of the server's CPU time each{behind}; {load.per_second:,.0f} /s on the wall"


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def _measure(server: Server) -> tuple[list[Figure], dict[int, wire.Load]]:
    client, floor = Client(server), _Floor(server.directory)
    client.open_fleet()
    floor.slice()
    devices = client.devices(USUAL)
    sessions = {}
    for connections in CONNECTIONS:
        floor.slice()
        sessions[connections] = client.sessions(connections)
    floor.slice()
    renewals = client.renewals()
    floor.slice()
    aim = Aim(0.2, at_least=True)
    runs = [
        _Run(f"sessions per core, {_connections(count)}", load, aim=aim if count == USUAL else None)
        for count, load in sessions.items()
    ]
    runs.append(_Run(f"devices per core, {_connections(USUAL)}", devices))
    runs.append(_Run(f"renewals per core, {_connections(RENEWING_NODES)}", renewals))
    for how in ("GET", "POST"):
        load = client.statuses(devices, by_get=how == "GET")
        runs.append(_Run(f"OCSP by {how} per core, {_connections(USUAL)}", load, has_floor=False))
    return _figures(server, floor.rate, runs), sessions


def on_sqlite(world: World) -> list[Figure]:
    """Measure the issuer on SQLite."""
    progress(f"issuer on SQLite: {COUNT} certificates a run, and the bare loop")
    with others_elsewhere(), breakwater(world) as server:
        return _measure(server)[0]


def on_postgresql(world: World) -> list[Figure]:
    """Measure the issuer on PostgreSQL, and cfssl on the same PostgreSQL."""
    progress(f"issuer on PostgreSQL: {COUNT} certificates a run, the bare loop, and cfssl")
    with others_elsewhere():
        postgres = Postgres()
        try:
            with breakwater(world, postgres) as server:
                figures, sessions = _measure(server)
            theirs = rival.measure(world, postgres, CONNECTIONS, COUNT)
        finally:
            postgres.stop()
    for connections, load in theirs.items():
        figures += _beside(connections, sessions[connections], load)
    return figures


def _beside(connections: int, ours: wire.Load, theirs: wire.Load) -> list[Figure]:
    """The ratios to cfssl: CPU time of the server, CPU time of server and database, and the client's rate."""
    over = _connections(connections)
    aim = Aim(1.0, at_least=True) if connections == USUAL else None
    return [
        Figure(
            name=f"sessions by CPU of server, beside cfssl, {over}", value=ours.per_server_second, unit="/s",
            floor=theirs.per_server_second, note=f"cfssl: {cost_of(theirs)}",
        ),
        Figure(
            name=f"sessions by CPU of server and database, beside cfssl, {over}", value=ours.per_cpu_second, unit="/s",
            floor=theirs.per_cpu_second, floor_name=RIVAL_NAME if aim else "", aim=aim,
        ),
        Figure(
            name=f"sessions on the wall, beside cfssl, {over}", value=ours.per_second, unit="/s",
            floor=theirs.per_second, floor_name=RIVAL_NAME if aim else "", aim=aim,
        ),
    ]  # fmt: skip
