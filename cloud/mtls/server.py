"""Adapter: the TLS side of a listener. Its certificate and CAs can be changed while connections stay open.

It does not decide whether a client is admitted. `cloud/mtls/peer.py` does, at each request.
"""

import ssl

from cloud.crypto.keyfile import PrivateKey
from cloud.mtls.key_pair import load_key_pair


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    """Set TLS 1.3, no session tickets, and verification of a client certificate if the client sends one.

    A chain may end at any trust anchor, also at an issuing CA (`cloud/mtls/anchors.py`).
    """
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class ServerTls:
    """The TLS side of a listener: TLS 1.3, client certificates optional, no session tickets.

    A session ticket would keep a client's identity valid after the end of its connection. Without tickets every
    connection proves the identity. New connections use a changed certificate and changed CAs. Open connections keep
    theirs; `PeerTrust` decides at their next request whether the client is still trusted. With an empty
    `client_ca_pem`, no client certificate is accepted.
    """

    def __init__(self, chain_pem: bytes, key: PrivateKey, client_ca_pem: bytes) -> None:
        self._pair = (chain_pem, key)
        self._client_ca_pem = client_ca_pem
        self._context = self._make()

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection. OpenSSL cannot remove a CA from a context, so a change makes a new one."""
        return self._context

    def reload(self, chain_pem: bytes, key: PrivateKey) -> None:
        """Use another certificate from the next connection on. Open connections keep theirs.

        Raises:
            ssl.SSLError: key and certificate do not belong together; the old pair is still used.
        """
        self._change((chain_pem, key), self._client_ca_pem)

    def retrust(self, client_ca_pem: bytes) -> None:
        """Accept clients of these CAs, and no others, from the next connection on.

        Raises:
            ssl.SSLError: the text has no certificate; the old CAs are still used.
        """
        self._change(self._pair, client_ca_pem)

    def _change(self, pair: tuple[bytes, PrivateKey], client_ca_pem: bytes) -> None:
        before = self._pair, self._client_ca_pem
        self._pair, self._client_ca_pem = pair, client_ca_pem
        try:
            self._context = self._make()
        except ssl.SSLError:
            self._pair, self._client_ca_pem = before
            raise

    def _make(self) -> ssl.SSLContext:
        context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if self._client_ca_pem:
            context.load_verify_locations(cadata=self._client_ca_pem.decode("ascii"))
        load_key_pair(context, *self._pair)
        return context
