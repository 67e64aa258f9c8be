"""`cloud.mtls.anchors`: which CAs end a client's chain, and that their dates still count in a handshake."""

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from cloud.mtls.anchors import client_anchors
from cloud.mtls.key_pair import load_key_pair
from cloud.mtls.peer import PeerTrust
from cloud.mtls.server import ServerTls
from cloud.mtls.server_stream import ServerStream
from tests.cloud.breakwater.chains import make_chain
from tests.cloud.pki import TRUST_DOMAIN, Authority, Pki, authority

HOUR = timedelta(hours=1)
PERMITTED = x509.NameConstraints([x509.UniformResourceIdentifier("other.test")], None)


def again(one: Authority, above: Authority, ends: timedelta, *extensions: x509.ExtensionType) -> Authority:
    """The same authority with a certificate that `above` issued, from an hour ago to `ends` from now."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        above.certificate.subject, one.certificate.subject, one.key.public_key(), 7, now - HOUR, now + ends
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return Authority(one.name, one.key, builder.sign(above.key, hashes.SHA256()))


def anchored(root: Authority, ca: Authority) -> bool:
    """Whether the CA is an anchor beside the root, which always is one."""
    pem = client_anchors(PeerTrust(TRUST_DOMAIN, (ca.certificate,), (), (root.certificate,)))
    assert pem in (root.pem, root.pem + ca.pem)
    return pem != root.pem


async def test_all_issuing_cas_of_an_installation_are_anchors() -> None:
    chain = await make_chain()
    root, nodes, services = (
        x509.load_der_x509_certificate(each.certificate_der) for each in (chain.root, chain.nodes, chain.services)
    )
    trust = PeerTrust(TRUST_DOMAIN, (nodes,), (services,), (root,))
    assert x509.load_pem_x509_certificates(client_anchors(trust)) == [root, nodes, services]


def test_without_roots_there_is_no_anchor() -> None:
    assert client_anchors(Pki().trust) == b""


SIGNS, SIGNS_LISTS = (
    x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    for certificates in (True, False)
)
ROOM, NO_ROOM, NO_CA = (x509.BasicConstraints(ca, room) for ca, room in ((True, 1), (True, 0), (False, None)))


@pytest.mark.parametrize(
    ("extensions", "root_ends", "covers"),
    [
        ((ROOM, SIGNS), 3 * HOUR, True),
        ((NO_ROOM, SIGNS), 3 * HOUR, False),
        ((NO_CA, SIGNS), 3 * HOUR, False),
        ((SIGNS,), 3 * HOUR, False),
        ((ROOM, SIGNS_LISTS), 3 * HOUR, False),
        ((ROOM,), 3 * HOUR, False),
        ((ROOM, SIGNS, PERMITTED), 3 * HOUR, False),
        ((ROOM, SIGNS), HOUR, False),
    ],
)
def test_a_ca_is_an_anchor_if_its_root_neither_constrains_it_nor_ends_before_it(
    extensions: tuple[x509.ExtensionType, ...], root_ends: timedelta, covers: bool
) -> None:
    base = authority("root")
    root = again(base, base, root_ends, *extensions)
    assert anchored(root, again(authority("nodes"), root, 2 * HOUR, NO_ROOM)) == covers


def test_a_ca_of_another_root_is_no_anchor() -> None:
    named_alike = authority("root")
    assert not anchored(authority("root"), authority("nodes", named_alike))


@pytest.mark.parametrize(("ends", "accepted"), [(HOUR, True), (-HOUR / 2, False)])
def test_an_anchored_ca_ends_with_its_dates(ends: timedelta, accepted: bool) -> None:
    pki = Pki()
    root = again(pki.root, pki.root, 2 * HOUR, ROOM, SIGNS)
    pki.nodes = again(pki.nodes, root, ends, NO_ROOM)
    assert anchored(root, pki.nodes)
    leaf, server = pki.leaf(pki.nodes, (), subject=((NameOID.COMMON_NAME, "leaf"),)), pki.service("fabric")
    anchors = client_anchors(PeerTrust(TRUST_DOMAIN, (pki.nodes.certificate,), (), (root.certificate,)))
    stream = ServerStream(ServerTls(server.chain_pem, server.key, anchors).context)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    load_key_pair(context, leaf.chain_pem, leaf.key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    stream.receive(outgoing.read())
    incoming.write(stream.outgoing())
    client.do_handshake()
    if accepted:
        assert stream.receive(outgoing.read()) == b""
        assert stream.established
    else:
        with pytest.raises(ssl.SSLError, match="certificate has expired"):
            stream.receive(outgoing.read())
