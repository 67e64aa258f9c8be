"""Benchmarks: what sessions, refreshes, issuances, connections and activations cost the cloud, on both engines.

`cascade up` runs Fabric and Breakwater in one process on one core. So the cost of a session is that of both services,
with the mTLS between them. The nodes are simulated (`benchmarks.fleet`): ten of them, then a thousand in the same cloud.
Proofs are signed before the clock starts. Activations run whole, with one machine; the software TPM is their limit.
"""

import os
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks import wire
from benchmarks.connections import GIB_KIB, floor_handshake_ms, floor_kib_each
from benchmarks.figures import Aim, Figure, progress
from benchmarks.fleet import Fleet, Opened
from benchmarks.floor import FLOOR_NAME, BareIssuer, per_cpu_second, requests_for_keys
from benchmarks.host import Postgres, Server, cloud, others_elsewhere
from benchmarks.issuer import cost_of
from benchmarks.world import World, cpu_seconds, memory_kib
from node.state import State
from protocol.messages.sessions import TYP_SESSION_PROOF
from protocol.signed import envelope

SIZES = (10, 1000)
SESSIONS = 500
"""Sessions a run. Ten nodes share them, and a node gets 120 sessions in a row at most."""
ISSUANCES = 500
REFRESHES = 2000
CONNECTED = 400
"""Connections of nodes that are open at the same time."""
HANDSHAKES = 200
ACTIVATIONS = 6
SESSIONS_FLOOR = "chain verified, proof verified, request checked, certificate built and signed, in a bare loop"
REFRESHES_FLOOR = "GET /healthz over the same connections"
ACTIVATIONS_FLOOR = "two certificates: parse, check, build and sign in a bare loop"


def on_sqlite(world: World) -> list[Figure]:
    """Measure a cloud on SQLite."""
    with others_elsewhere(), cloud(world) as server:
        return _measure(world, server)


def on_postgresql(world: World) -> list[Figure]:
    """Measure a cloud on PostgreSQL."""
    with others_elsewhere():
        postgres = Postgres()
        try:
            with cloud(world, postgres) as server:
                return _measure(world, server)
        finally:
            postgres.stop()


def _measure(world: World, server: Server) -> list[Figure]:
    engine = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[server.engine]
    state = State(server.directory / "machine")
    os.environ.update(_operator(server))
    file = world.new_code(world.new_tenant(), server.engine)
    world.activate(file, state)
    figures: list[Figure] = []
    for size in SIZES:
        progress(f"{engine}, {size} simulated nodes: idle connections, handshakes, sessions, refreshes, issuances")
        about = f"{size} nodes, {engine}"
        fleet = Fleet(server, size)
        opened = fleet.open_sessions()
        figures.append(_idle(server, fleet, opened, about))
        figures += _handshakes(server, fleet, opened, about)
        figures.append(_sessions(server, fleet, about))
        figures.append(_refreshes(server, fleet, opened, about))
        issuer = BareIssuer(server.directory)
        rate = per_cpu_second(issuer.issue, requests_for_keys(100))
        load = fleet.issuances(ISSUANCES)
        figures.append(
            Figure(
                name=f"issuances per core, {about}", value=load.per_server_second, unit="/s", floor=rate,
                floor_name=FLOOR_NAME, aim=Aim(0.2, at_least=True), note=cost_of(load),
            )
        )  # fmt: skip
        progress(f"{engine}, {size} simulated nodes: {ACTIVATIONS} activations with a software TPM")
        cpu, began = cpu_seconds(server.pid), time.perf_counter()
        for _ in range(ACTIVATIONS):
            world.activate(file, state)
        wall, spent = (time.perf_counter() - began) / ACTIVATIONS, (cpu_seconds(server.pid) - cpu) / ACTIVATIONS
        figures.append(
            Figure(
                name=f"activations per core, {about}", value=1 / spent, unit="/s", floor=rate / 2,
                floor_name=ACTIVATIONS_FLOOR, note=f"server's CPU time {spent * 1000:.1f} ms; on the wall {wall:.2f} s, "
                "one at a time: the software TPM is the limit",
            )
        )  # fmt: skip
    return figures


def _operator(server: Server) -> dict[str, str]:
    """The environment variables for an operator's commands."""
    lines = (server.directory / "operator" / "env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {**variables, "XDG_CACHE_HOME": str(server.directory / "cache")}


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


def _idle(server: Server, fleet: Fleet, opened: list[Opened], about: str) -> Figure:
    """Memory of a node's connection with a session certificate, which idles after one answer."""
    health = [wire.get("/healthz")]
    contexts = [lane.context for lane in fleet.lanes(opened[:CONNECTED], health, 1)]
    lanes = [wire.Lane(contexts[number % len(contexts)], list(health)) for number in range(CONNECTED)]
    before = memory_kib(server.pid)[0]
    grown = wire.held(lanes, pid=server.pid, port=server.port, measure=lambda: memory_kib(server.pid)[0] - before)
    each_kib = grown / CONNECTED
    return Figure(
        name=f"idle connected node, {about}", value=each_kib, unit="KiB",
        floor=floor_kib_each(lambda: fleet.bare_context(opened[0]), _cas(fleet), server.directory),
        floor_name="OpenSSL's state of such a connection, in a process that does nothing else",
        aim=Aim(64, of="value", unit="KiB"), note=f"RSS of the server; {GIB_KIB / each_kib:,.0f} nodes per GiB",
    )  # fmt: skip


def _handshakes(server: Server, fleet: Fleet, opened: list[Opened], about: str) -> list[Figure]:
    """CPU time of a new connection, beyond that of the request that it carries."""
    request = wire.get("/healthz")
    health = fleet.load([request] * (REFRESHES + wire.WARM_UP)).server_ms
    figures = []
    for name, context, bare in (
        ("handshake without certificate", fleet.trust.context("fabric"), fleet.bare_context()),
        ("handshake with a session certificate", fleet.session_context(opened[0]), fleet.bare_context(opened[0])),
    ):
        new = wire.handshakes(HANDSHAKES, pid=server.pid, port=server.port, context=context, request=request)
        floor = floor_handshake_ms(bare, _cas(fleet), server.directory)
        figures.append(
            Figure(
                name=f"{name}, {about}", value=new.server_ms - health, unit="ms", floor=floor,
                floor_name="OpenSSL's server side over memory, the issuing CA as trust anchor",
                aim=Aim(1.0, of="value", unit="ms"), note=f"without GET /healthz on it, {health:.2f} ms",
            )
        )  # fmt: skip
    return figures


def _cas(fleet: Fleet) -> bytes:
    """Root and issuing CAs in DER."""
    peers = fleet.trust.peers
    issuers = b"".join(ca.public_bytes(Encoding.DER) for ca in (*peers.node_issuers, *peers.service_issuers))
    return x509.load_pem_x509_certificate(fleet.trust.root).public_bytes(Encoding.DER) + issuers
