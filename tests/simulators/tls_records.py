"""Simulator: a TLS 1.3 client that seals records itself, so that it can send what no library sends (RFC 8446).

Python's client makes the handshake. Its key log has the secret from which the keys of the client's records are derived.
"""

import asyncio
import ssl
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SUITE = "TLS_AES_256_GCM_SHA384"
APPLICATION_DATA, HANDSHAKE = 23, 22
KEY_UPDATE = b"\x18\x00\x00\x01"
"""Type and length of the message KeyUpdate (section 4.6.3). One byte follows: whether the peer shall update too."""


class RecordWriter:
    """Seals the records of a client after its handshake."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher, self._iv = AESGCM(_expand(secret, b"key", 32)), _expand(secret, b"iv", 12)
        self._number = 0

    def record(self, kind: int, content: bytes) -> bytes:
        """One encrypted record (section 5.2)."""
        inner = content + bytes((kind,))
        header = struct.pack(">BHH", APPLICATION_DATA, 0x0303, len(inner) + 16)
        number = self._number.to_bytes(12, "big")
        nonce = bytes(left ^ right for left, right in zip(self._iv, number, strict=True))
        self._number += 1
        return header + self._cipher.encrypt(nonce, inner, header)

    def key_updates(self, *, answered: bool) -> Iterator[bytes]:
        """Records of KeyUpdate without end. With `answered` the server shall update its own key as well."""
        while True:
            update = self.record(HANDSHAKE, KEY_UPDATE + bytes((answered,)))
            self._use(_expand(self._secret, b"traffic upd", 48))
            yield update


def writer_of(tls: ssl.SSLObject, key_log: Path) -> RecordWriter:
    """The writer for the client of a finished handshake. `key_log` is the file `keylog_filename` of its context."""
    cipher = tls.cipher()
    assert cipher is not None
    assert cipher[0] == SUITE, cipher
    lines = [line.split() for line in key_log.read_text().splitlines() if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")]
    return RecordWriter(bytes.fromhex(lines[-1][2]))


async def shake_hands(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> RecordWriter:
    """Make the handshake over a plain connection, and return the writer of the client's records."""
    with tempfile.TemporaryDirectory() as directory:
        key_log = Path(directory) / "keys"
        context.keylog_filename = str(key_log)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        writer.write(outgoing.read())
        return writer_of(tls, key_log)


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context (section 7.1)."""
    name = b"tls13 " + label
    info = struct.pack(">HB", size, len(name)) + name + b"\x00"
    return HKDFExpand(SHA384(), size, info).derive(secret)
