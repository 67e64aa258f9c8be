"""`cloud.mtls.server_stream`: the server's side of TLS over memory: handshake, records, alerts and the end."""

import ssl
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.mtls.key_pair import load_key_pair
from cloud.mtls.server import ServerTls
from cloud.mtls.server_stream import ServerStream
from tests.cloud.pki import Leaf, Pki, authority


class Client:
    """A client over memory, and the server's stream."""

    def __init__(self, pki: Pki, leaf: Leaf | None = None) -> None:
        server = pki.service("fabric")
        self.stream = ServerStream(ServerTls(server.chain_pem, server.key, pki.ca_pem).context)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pki.root.pem.decode())
        if leaf is not None:
            load_key_pair(context, leaf.chain_pem, leaf.key)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")

    def pass_on(self) -> bytes:
        """Carry the client's bytes to the server, and the answer back. Return the decrypted bytes."""
        try:
            return self.stream.receive(self._out.read())
        finally:
            self._in.write(self.stream.outgoing())

    def handshake(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        assert self.pass_on() == b""
        self.tls.do_handshake()
        assert self.pass_on() == b""


def test_a_handshake_and_records_in_both_directions() -> None:
    pki = Pki()
    leaf = pki.service("breakwater")
    client = Client(pki, leaf)
    client.handshake()
    assert client.stream.established
    assert client.stream.certificate() == leaf.certificate.public_bytes(Encoding.DER)
    client.tls.write(b"a" * 40_000)
    client.tls.write(b"b")
    assert client.pass_on() == b"a" * 40_000 + b"b"
    client.stream.send(b"answer")
    assert client.pass_on() == b""
    assert client.tls.read() == b"answer"


def test_the_end_is_said_and_heard() -> None:
    client = Client(Pki())
    client.handshake()
    assert client.stream.certificate() is None
    client.stream.close()
    client.pass_on()
    assert client.tls.read() == b""
    assert not client.stream.ended
    with suppress(ssl.SSLError):
        client.tls.unwrap()
    client.pass_on()
    assert client.stream.ended


def test_a_failed_handshake_leaves_its_alert() -> None:
    stranger = Pki(authority("another root")).service("fabric")
    client = Client(Pki(), stranger)
    with suppress(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.pass_on()
    client.tls.do_handshake()
    with pytest.raises(ssl.SSLError):
        client.pass_on()
    with pytest.raises(ssl.SSLError, match="ALERT"):
        client.tls.read()
