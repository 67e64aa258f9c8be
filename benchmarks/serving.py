"""Benchmarks: what sessions, refreshes, connections and activations cost the cloud, on both engines.

`cascade up` runs Fabric and Breakwater in one process on one core. So the cost of a session is that of both services,
with the mTLS between them. The nodes are simulated (`benchmarks.fleet`): ten of them, then a thousand in the same cloud.
Proofs are signed before the clock starts. Activations run whole, with one machine; the software TPM is their limit.
"""

import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks import wire
from benchmarks.figures import Aim, Figure, progress
from benchmarks.fleet import Fleet, Opened
from benchmarks.floor import BareIssuer, per_cpu_second, requests_for_keys
from benchmarks.host import Postgres, Server, cloud, others_elsewhere
from benchmarks.issuer import cost_of
from benchmarks.world import World, cpu_seconds, memory_kib
from protocol.messages.sessions import TYP_SESSION_PROOF
from protocol.signed import envelope

ACTIVATIONS = 8
SIZES = (10, 1000)
SESSIONS = 500
"""Sessions a run. Ten nodes share them, and a node gets 120 sessions in a row at most."""
REFRESHES = 2000
CONNECTED = 400
"""Nodes that wait in a long poll at the same time. Each has a connection."""
HANDSHAKES = 150
SESSIONS_FLOOR = "chain verified, proof verified, request checked, certificate built and signed, in a bare loop"
REFRESHES_FLOOR = "GET /healthz over the same connections"


def activations(world: World) -> list[Figure]:
    """Measure whole activations of one machine with the same file, one after the other."""
    installed = world.installed()
    pid = world.cloud_up()
    progress(f"activations: {ACTIVATIONS} in sequence, with a software TPM")
    cpu, began = cpu_seconds(pid), time.perf_counter()
    for _ in range(ACTIVATIONS):
        world.activate(installed.file)
    wall, spent = time.perf_counter() - began, cpu_seconds(pid) - cpu
    note = "trust fetched, TPM challenged, certificates issued, confirmed; one at a time: the software TPM is the limit"
    return [
        Figure(name="activations on the wall", value=ACTIVATIONS / wall, unit="/s", note=note),
        Figure(name="activations per core", value=ACTIVATIONS / spent, unit="/s", note=_cost(spent / ACTIVATIONS)),
    ]


def on_sqlite(world: World) -> list[Figure]:
    """Measure sessions, refreshes and connections on SQLite."""
    with others_elsewhere(), cloud(world) as server:
        return _measure(server)


def on_postgresql(world: World) -> list[Figure]:
    """Measure sessions and refreshes on PostgreSQL."""
    with others_elsewhere():
        postgres = Postgres()
        try:
            with cloud(world, postgres) as server:
                return _measure(server)
        finally:
            postgres.stop()


def _measure(server: Server) -> list[Figure]:
    engine = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[server.engine]
    figures: list[Figure] = []
    for size in SIZES:
        progress(f"{engine}: {size} simulated nodes, {SESSIONS} sessions, {REFRESHES} refreshes, and their floors")
        fleet = Fleet(server, size)
        opened = fleet.open_sessions()
        figures.append(_sessions(server, fleet, f"{size} nodes, {engine}"))
        figures.append(_refreshes(server, fleet, opened, f"{size} nodes, {engine}"))
        if size > CONNECTED and server.engine == "sqlite":
            figures += _connections(server, fleet, opened)
    return figures


def _sessions(server: Server, fleet: Fleet, about: str) -> Figure:
    requests, _ = fleet.session_requests(SESSIONS + wire.WARM_UP)
    load = fleet.load(requests)
    return Figure(
        name=f"sessions per core, {about}", value=load.per_server_second, unit="/s",
        floor=_sessions_floor(server, fleet), floor_name=SESSIONS_FLOOR, aim=Aim(0.2, at_least=True),
        note=cost_of(load),
    )  # fmt: skip


def _sessions_floor(server: Server, fleet: Fleet) -> float:
    """Sessions that one core serves in a bare loop, with the same cryptography."""
    issuer, node, device = BareIssuer(server.directory), fleet.nodes[0], fleet.devices[0]
    ca = fleet.trust.peers.node_issuers[0]
    signed = envelope.signing_input(TYP_SESSION_PROOF, envelope.key_id(node.key.public_key()), b"x" * 600)
    signature = node.key.sign(signed, ec.ECDSA(hashes.SHA256()))

    def bare(csr: bytes) -> None:
        certificate = x509.load_der_x509_certificate(device)
        certificate.verify_directly_issued_by(ca)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("the node key is an EC key")
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        issuer.issue(csr)

    return per_cpu_second(bare, requests_for_keys(100))


def _refreshes(server: Server, fleet: Fleet, opened: list[Opened], about: str) -> Figure:
    nodes = opened[: wire.CONNECTIONS]
    loads = []
    for request in ([wire.get("/healthz")], None):
        each = REFRESHES // len(nodes)
        lanes, warm_up = fleet.lanes(nodes, request, each), fleet.lanes(nodes, request, wire.WARM_UP // len(nodes))
        loads.append(wire.run_lanes(lanes, warm_up, pid=server.pid, port=server.port, behind=server.database_seconds))
    health, load = loads
    return Figure(
        name=f"refreshes per core, {about}", value=load.per_server_second, unit="/s", floor=health.per_server_second,
        floor_name=REFRESHES_FLOOR, aim=Aim(0.6, at_least=True), note=cost_of(load),
    )  # fmt: skip


def _connections(server: Server, fleet: Fleet, opened: list[Opened]) -> list[Figure]:
    progress(f"{HANDSHAKES} new connections, and {CONNECTED} nodes that wait in a long poll")
    health = fleet.load([wire.get("/healthz")] * (REFRESHES + wire.WARM_UP))
    new = wire.handshakes(
        HANDSHAKES, pid=server.pid, port=server.port, context=lambda: fleet.trust.context("fabric"),
        request=wire.get("/healthz"),
    )  # fmt: skip
    before = memory_kib(server.pid)[0]
    nodes = opened[:CONNECTED]
    polls = [
        wire.Lane(lane.context, [wire.get(f"/v1/node/events?cursor={each.session.cursor}&wait=120")])
        for lane, each in zip(fleet.lanes(nodes, [b""], 1), nodes, strict=True)
    ]
    grown = wire.held(polls, pid=server.pid, port=server.port, measure=lambda: memory_kib(server.pid)[0] - before)
    each_kib = grown / CONNECTED
    return [
        Figure(
            name="connection with a TLS handshake", value=new.server_ms, unit="ms", floor=health.server_ms,
            floor_name="GET /healthz on a kept-alive one; the server's CPU time of both",
            aim=Aim(1.0, of="value", unit="ms"),
        ),
        Figure(
            name="idle connected node", value=each_kib, unit="KiB", aim=Aim(64, of="value", unit="KiB"),
            note=f"RSS of the server for one node in a long poll; {1024 * 1024 / each_kib:,.0f} nodes per GiB",
        ),
    ]  # fmt: skip


def _cost(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms of the server's CPU time each"
