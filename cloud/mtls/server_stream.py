"""Values: the server's side of TLS for one connection, over memory, without sockets and event loop.

asyncio's own TLS transport keeps a read buffer of 256 KiB for each connection, and closes the connection after a
failed handshake before it has sent the alert. This class keeps no buffer, and the caller sends the alert.
"""

import ssl
from contextlib import suppress

READ_BYTES = 16 * 1024
"""Bytes of one TLS record (RFC 8446 section 5.1)."""
BARE_RECORDS_MAX = 32
"""Records without data that a peer may send with one request, or in its handshake. OpenSSL counts neither KeyUpdates
nor small fragments. Each KeyUpdate costs 25 to 50 us: the server derives keys, and answers. Our clients' handshakes
have up to five records, and none after them. BoringSSL has the same limit."""
_HEADER_BYTES = 5
_SLICE_BYTES = 1024
"""Bytes that are decrypted at once when they have many small records. They have at most 46 records."""


class ServerStream:
    """The TLS state of one connection."""

    __slots__ = ("_header", "_incoming", "_left", "_outgoing", "_tls", "bare_records", "ended", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        """Whether the handshake is complete."""
        self.ended = False
        """Whether the peer has said that it sends no more (close_notify)."""
        self.bare_records = 0
        """Records without data so far. The caller sets the number back to 0, and closes the connection when the number
        is above BARE_RECORDS_MAX. No more bytes are decrypted then."""
        self._left = 0
        """Bytes of the current record that have not arrived."""
        self._header = b""
        """The first bytes of the next record, fewer than a header."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the peer, and return the decrypted bytes. The caller then sends `outgoing()`.

        Raises:
            ssl.SSLError: the peer broke TLS, or its certificate is not accepted. `outgoing()` returns the alert.
        """
        if len(data) <= _SLICE_BYTES or self._records(data)[0] <= BARE_RECORDS_MAX:
            return self._decrypt(data)
        plain = b""
        for begin in range(0, len(data), _SLICE_BYTES):
            if self.ended or self.bare_records > BARE_RECORDS_MAX:
                break
            plain += self._decrypt(data[begin : begin + _SLICE_BYTES])
        return plain

    def _decrypt(self, data: bytes) -> bytes:
        self._incoming.write(data)
        count, self._left, self._header = self._records(data)
        self.bare_records += count
        if not self.established:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return b""
            self.established = True
        pieces = []
        try:
            while piece := self._tls.read(READ_BYTES):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # Both sides have said so.
            self.ended = True
        self.bare_records -= len(pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _records(self, data: bytes) -> tuple[int, int, bytes]:
        """Return the records whose header is complete in `data`, and the `_left` and `_header` after them."""
        data, at, count = self._header + data, self._left, 0
        while at + _HEADER_BYTES <= len(data):
            at += _HEADER_BYTES + int.from_bytes(data[at + 3 : at + _HEADER_BYTES], "big")
            count += 1
        return count, max(0, at - len(data)), data[at:]

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt bytes for the peer. The caller then sends `outgoing()`."""
        self._tls.write(data)

    def close(self) -> None:
        """Say that no more bytes follow (close_notify)."""
        with suppress(ssl.SSLError):  # The peer has not said the same yet, and need not.
            self._tls.unwrap()

    def outgoing(self) -> bytes:
        """Return the bytes for the peer that were not yet returned."""
        return self._outgoing.read()

    def certificate(self) -> bytes | None:
        """Return the client's certificate in DER, or None if it sent none."""
        return self._tls.getpeercert(binary_form=True)
