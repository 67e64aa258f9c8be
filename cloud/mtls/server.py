"""Adapter: the TLS context of our listeners, reloaded while connections live on."""

from __future__ import annotations

import os
import ssl
from typing import TypeVar

from cryptography.hazmat.primitives import serialization

from cloud.crypto.keyfile import PrivateKey


def load_key_pair(context: ssl.SSLContext, chain_pem: bytes, key: PrivateKey) -> None:
    """Give a context its certificate and key; the key passes through memory only.

    Raises:
        ssl.SSLError: they do not belong together.
    """
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(chain_pem.rstrip() + b"\n" + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


class _SwitchedContext(ssl.SSLContext):
    """What a listener holds for its whole life: every new connection is begun with the context that is current then.

    OpenSSL cannot take a CA out of a live context, so another set of CAs is another context; asyncio asks the one
    that it was given once a connection, through `wrap_bio`.
    """

    current: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self.current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


Context = TypeVar("Context", bound=ssl.SSLContext)


def _strict(context: Context) -> Context:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


class ServerTls:
    """The TLS side of a listener: TLS 1.3, client certificates welcome but not required, no session tickets.

    A ticket would carry a client's identity past the end of its connection; without tickets every connection
    proves it anew. Certificate and CAs change for the connections to come; open ones keep theirs, and whether their
    client is still believed is `PeerTrust`'s word at the next request. An empty `client_ca_pem` takes no client.
    """

    def __init__(self, chain_pem: bytes, key: PrivateKey, client_ca_pem: bytes) -> None:
        self._pair = (chain_pem, key)
        self._client_ca_pem = client_ca_pem
        self._switched = _strict(_SwitchedContext(ssl.PROTOCOL_TLS_SERVER))
        self._switched.current = self._make()

    @property
    def context(self) -> ssl.SSLContext:
        """The context to listen with; it stays the same one."""
        return self._switched

    def reload(self, chain_pem: bytes, key: PrivateKey) -> None:
        """Serve another certificate from the next connection on; open connections keep theirs.

        Raises:
            ssl.SSLError: key and certificate do not belong together; the old pair is still served.
        """
        self._change((chain_pem, key), self._client_ca_pem)

    def retrust(self, client_ca_pem: bytes) -> None:
        """Take clients below these CAs, and no others, from the next connection on.

        Raises:
            ssl.SSLError: the text holds no certificate; the old set still counts.
        """
        self._change(self._pair, client_ca_pem)

    def _change(self, pair: tuple[bytes, PrivateKey], client_ca_pem: bytes) -> None:
        before = self._pair, self._client_ca_pem
        self._pair, self._client_ca_pem = pair, client_ca_pem
        try:
            self._switched.current = self._make()
        except ssl.SSLError:
            self._pair, self._client_ca_pem = before
            raise

    def _make(self) -> ssl.SSLContext:
        context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if self._client_ca_pem:
            context.load_verify_locations(cadata=self._client_ca_pem.decode("ascii"))
        load_key_pair(context, *self._pair)
        return context
