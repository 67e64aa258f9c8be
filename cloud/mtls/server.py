"""Adapter: the TLS side of a listener. Certificate and CAs change while connections live on.

It decides nothing about a client: `cloud/mtls/peer.py` does, at each request.
"""

import ssl
from typing import TypeVar

from cloud.crypto.keyfile import PrivateKey
from cloud.mtls.key_pair import load_key_pair

_Context = TypeVar("_Context", bound=ssl.SSLContext)


class _SwitchedContext(ssl.SSLContext):
    """The context that a listener holds for its whole life. A new connection begins with the one in `current`.

    OpenSSL cannot take a CA out of a live context, so another set of CAs is another context. asyncio calls `wrap_bio`
    of the context that it was given, once a connection.
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


def _strict(context: _Context) -> _Context:
    """TLS 1.3, no session tickets, client certificates verified where a client shows one."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


class ServerTls:
    """The TLS side of a listener: TLS 1.3, client certificates optional, no session tickets.

    A ticket would carry a client's identity past the end of its connection; without tickets every connection proves
    it. New connections get a changed certificate and changed CAs. Open ones keep theirs; `PeerTrust` decides at their
    next request whether their client is still trusted. With an empty `client_ca_pem` no client certificate is accepted.
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
        """Accept clients below these CAs, and no others, from the next connection on.

        Raises:
            ssl.SSLError: the text holds no certificate; the old set stays in force.
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
