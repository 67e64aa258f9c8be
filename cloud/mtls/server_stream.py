"""Pure functions of one connection's bytes: the server's side of TLS over memory, without sockets and event loop.

asyncio's own TLS transport keeps a read buffer of 256 KiB for each connection, and closes the connection after a
failed handshake before it has sent the alert. This class keeps no buffer, and the caller sends the alert.
"""

import ssl
from contextlib import suppress

READ_BYTES = 16 * 1024
"""Bytes of one TLS record (RFC 8446 section 5.1)."""


class ServerStream:
    """The TLS state of one connection."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "ended", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        """Whether the handshake is complete."""
        self.ended = False
        """Whether the peer has said that it sends no more (close_notify)."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the peer, and return the decrypted bytes. The caller then sends `outgoing()`.

        Raises:
            ssl.SSLError: the peer broke TLS, or its certificate is not accepted. `outgoing()` returns the alert.
        """
        self._incoming.write(data)
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
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

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
