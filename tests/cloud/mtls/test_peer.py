"""Peers over real TLS: certificates that are accepted or refused, and checks that every request repeats."""

import asyncio
import ssl
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.mtls.peer import NodePeer, PeerRefused, PeerTrust, ServicePeer, key_id_of, read_peer
from protocol.ids import EKU_DEVICE
from tests.cloud.pki import CLIENT, NODE_ID, NODE_URI, SERVER, TENANT, Leaf, Pki, authority, service_uri
from tests.cloud.world import World, connected

NODE_SUBJECT = ((NameOID.COMMON_NAME, str(NODE_ID)), (NameOID.SERIAL_NUMBER, "1"))
DEVICE = x509.ObjectIdentifier(EKU_DEVICE)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def test_reads_a_node_and_a_service(pki: Pki) -> None:
    leaf = pki.node("7")
    node = read_peer(leaf.certificate, pki.trust)
    assert isinstance(node, NodePeer)
    assert (node.tenant, node.node, node.generation) == (TENANT, NODE_ID, 7)
    assert (node.serial, node.not_after) == (leaf.certificate.serial_number, leaf.certificate.not_valid_after_utc)
    fabric = read_peer(pki.service("fabric").certificate, pki.trust)
    assert isinstance(fabric, ServicePeer)
    assert fabric.name == "fabric"


OTHER_NODE = NODE_URI.replace(NODE_ID, NODE_ID[:-1] + ("0" if NODE_ID[-1] != "0" else "1"))
REFUSED: list[tuple[str, dict[str, object], str]] = [
    ("a node by the services' CA", {"issuer": "services"}, "CA of its class"),
    ("a service by the nodes' CA", {"uris": (service_uri("fabric"),)}, "CA of its class"),
    ("a node by the root itself", {"issuer": "root"}, "CA of its class"),
    ("two URI names", {"uris": (NODE_URI, service_uri("fabric"))}, "2 URI names"),
    ("the same URI name twice", {"uris": (NODE_URI, NODE_URI)}, "2 URI names"),
    ("no URI name", {"uris": (), "dns": ("node.example",)}, "0 URI names"),
    ("no alternative name", {"uris": ()}, "no subject alternative name"),
    ("not a SPIFFE id", {"uris": ("https://cascade.test/service/fabric",)}, "not a SPIFFE id"),
    ("an unknown service", {"uris": (service_uri("postbox"),)}, "not the SPIFFE id of a service or a node"),
    ("a query behind the id", {"uris": (NODE_URI + "?x=1",)}, "not an id"),
    ("another trust domain", {"uris": (NODE_URI.replace("cascade.test", "cascade.evil"),)}, "another trust domain"),
    ("no extended key usage", {"usages": ()}, "no extended key usage"),
    ("for servers only", {"usages": (SERVER,)}, "not for this use"),
    ("a device certificate", {"usages": (DEVICE,)}, "not for this use"),
    ("any usage", {"usages": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, "not for this use"),
    ("no generation", {"subject": NODE_SUBJECT[:1]}, "exactly one"),
    ("two generations", {"subject": (*NODE_SUBJECT, NODE_SUBJECT[1])}, "exactly one"),
    ("generation 0", {"subject": (NODE_SUBJECT[0], (NameOID.SERIAL_NUMBER, "0"))}, "not a generation"),
    ("generation 01", {"subject": (NODE_SUBJECT[0], (NameOID.SERIAL_NUMBER, "01"))}, "not a generation"),
    ("generation +1", {"subject": (NODE_SUBJECT[0], (NameOID.SERIAL_NUMBER, "+1"))}, "not a generation"),
    ("generation and a space", {"subject": (NODE_SUBJECT[0], (NameOID.SERIAL_NUMBER, "1 "))}, "not a generation"),
    ("another node's id", {"uris": (OTHER_NODE,)}, "does not name the node"),
]


def bent(pki: Pki, change: dict[str, object]) -> Leaf:
    options: dict[str, object] = {"uris": (NODE_URI,), "subject": NODE_SUBJECT, "usages": (CLIENT,), **change}
    issuer = {"services": pki.services, "root": pki.root, "nodes": pki.nodes}[str(options.pop("issuer", "nodes"))]
    return pki.leaf(issuer, options.pop("uris"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_one_change_is_refused(pki: Pki, change: dict[str, object], reason: str) -> None:
    with pytest.raises(PeerRefused, match=reason):
        read_peer(bent(pki, change).certificate, pki.trust)


def test_an_unknown_ca_of_the_same_name_is_refused(pki: Pki) -> None:
    with pytest.raises(PeerRefused, match="CA of its class"):
        read_peer(pki.leaf(authority("nodes", pki.root), (NODE_URI,), subject=NODE_SUBJECT).certificate, pki.trust)


@pytest.mark.parametrize(
    "change",
    [{"issuer": "services"}, {"uris": (NODE_URI, service_uri("fabric"))}, {"usages": ()}, {"subject": ()}],
    ids=["wrong class", "two URI names", "no EKU", "no generation"],
)
def test_refused_over_tls_with_a_problem(change: dict[str, object]) -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context(bent(world.pki, change))) as client:
            answer = await client.ask("/node")
            assert (answer.status, answer.problem.code) == (403, "peer_refused")
            assert (await client.ask("/open")).body == b"anonymous"

    asyncio.run(test())


@pytest.mark.parametrize("usages", [(DEVICE,), (SERVER,)], ids=["device certificate", "server certificate"])
def test_openssl_refuses_what_is_not_for_clients(usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    async def test() -> None:
        world = World()
        leaf = bent(world.pki, {"usages": usages})
        async with world.serving() as port, connected(port, world.client_context(leaf)) as client:
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await client.ask("/open")

    asyncio.run(test())


def test_expiry_counts_at_every_request() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context(world.pki.node())) as client:
            assert (await client.ask("/node")).status == 200
            world.ahead = timedelta(hours=2)
            answer = await client.ask("/node")
            assert (answer.status, answer.problem.detail) == (403, "the certificate has expired")
            world.ahead = timedelta(minutes=-10)
            assert (await client.ask("/node")).problem.detail == "the certificate is not valid yet"
            world.ahead = timedelta(0)
            assert (await client.ask("/node")).status == 200

    asyncio.run(test())


def test_a_closed_generation_counts_at_the_next_request_and_gets_its_statement() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context(world.pki.node("3"))) as client:
            assert (await client.ask("/node")).body.decode() == f"{NODE_ID} 3"
            world.closed.add(3)
            for path in ("/node", "/either"):
                answer = await client.ask(path)
                assert (answer.status, answer.problem.code) == (403, "generation_closed")
                assert answer.problem.statement == "signed for 3"
            assert (await client.ask("/open")).status == 200

    asyncio.run(test())


def test_a_revoked_service_counts_at_the_next_request() -> None:
    async def test() -> None:
        world = World()
        leaf = world.pki.service("fabric")
        async with world.serving() as port, connected(port, world.client_context(leaf)) as client:
            assert (await client.ask("/fabric")).body == b"fabric"
            world.revoked.add(leaf.certificate.serial_number)
            assert (await client.ask("/fabric")).problem.code == "peer_refused"

    asyncio.run(test())


def test_a_withdrawn_ca_counts_at_the_next_request() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context(world.pki.node())) as client:
            assert (await client.ask("/node")).status == 200
            world.trust = PeerTrust(world.trust.trust_domain, (), world.trust.service_issuers)
            assert (await client.ask("/node")).problem.code == "peer_refused"

    asyncio.run(test())


def test_a_ca_is_named_by_its_key() -> None:
    root = authority("root")
    stated = x509.SubjectKeyIdentifier.from_public_key(root.key.public_key())
    assert key_id_of(root.certificate) == stated.digest.hex()
