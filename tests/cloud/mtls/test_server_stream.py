"""`cloud.mtls.server_stream`: the server's side of TLS over memory: handshake, records, alerts and the end."""

import ssl
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.mtls.key_pair import load_key_pair
from cloud.mtls.server import ServerTls
from cloud.mtls.server_stream import BARE_RECORDS_MAX, ServerStream
from tests.cloud.pki import Leaf, Pki, authority
from tests.simulators.tls_records import APPLICATION_DATA, writer_of


class Client:
    """A client over memory, and the server's stream. `key_log` is a file for the secrets of the connection."""

    def __init__(self, pki: Pki, leaf: Leaf | None = None, key_log: Path | None = None) -> None:
        server = pki.service("fabric")
        self.stream = ServerStream(ServerTls(server.chain_pem, server.key, pki.ca_pem).context)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pki.root.pem.decode())
        if key_log is not None:
            context.keylog_filename = str(key_log)
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


def test_records_are_counted_wherever_the_bytes_are_cut(tmp_path: Path) -> None:
    client = Client(Pki(), key_log=tmp_path / "keys")
    client.handshake()
    client.stream.bare_records = 0
    records = writer_of(client.tls, tmp_path / "keys")
    updates = records.key_updates(answered=False)
    sent = b"".join(records.record(APPLICATION_DATA, b"ab") + next(updates) for _ in range(20))
    plain = b""
    for size in (1, 3, 5, 26, 50, len(sent)):
        plain += client.stream.receive(sent[:size])
        sent = sent[size:]
    assert (plain, sent) == (b"ab" * 20, b"")
    assert client.stream.bare_records == 20


def test_many_records_of_data_are_all_decrypted() -> None:
    client = Client(Pki())
    client.handshake()
    for _ in range(1000):
        client.tls.write(b"x")
    assert client.pass_on() == b"x" * 1000
    assert client.stream.bare_records <= BARE_RECORDS_MAX


@pytest.mark.parametrize("answered", [False, True])
def test_a_flood_of_key_updates_is_not_worked_on(tmp_path: Path, answered: bool) -> None:
    client = Client(Pki(), key_log=tmp_path / "keys")
    client.handshake()
    records = writer_of(client.tls, tmp_path / "keys")
    flood = list(islice(records.key_updates(answered=answered), 1000))
    assert client.stream.receive(b"".join(flood)) == b""
    assert client.stream.bare_records > BARE_RECORDS_MAX
    # OpenSSL answers each update that it works on with one of the same size.
    answers = len(client.stream.outgoing()) // len(flood[0])
    assert 0 < answers < 3 * BARE_RECORDS_MAX if answered else answers == 0
