"""Adapter: TLS of the agent. It is the only module of the node that imports `ssl`.

TLS 1.3 only. Trust is the X.509 bundle of the TUF repository, never a system CA. Before the first byte of a request the
server must prove its host and its service, by SPIFFE id and by an issuing CA of services. The session key is in memory
only and reaches OpenSSL through a memfd.
"""

import os
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from node.link.certificates import UNREADABLE, issued_by
from protocol.ids import ServiceSpiffeId
from protocol.signed.trust import X509Bundle

CONNECT_SECONDS_MAX = 10.0
"""A site behind a satellite link needs 2 s for a handshake; five times that."""
ANSWER_SECONDS_MAX = 30.0
"""An activation proof waits for two commits and a certificate; a second is usual."""


KEEPALIVE_SECONDS = 5.0
"""An idle connection is kept for the questions of one exchange, not from slot to slot."""


class ServerIdentityError(ssl.SSLCertVerificationError):
    """The server's certificate is good for its host, but not for the service that was asked."""


class NodeContext(ssl.SSLContext):
    """A client context that knows which service it may talk to. Made by `client_context` only."""

    expected: str
    issuers: tuple[x509.Certificate, ...]


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except (*UNREADABLE, x509.ExtensionNotFound):
        return []
    if not isinstance(names, x509.SubjectAlternativeName):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def check_server(der: bytes | None, expected: str, issuers: tuple[x509.Certificate, ...]) -> None:
    """Refuse every server but the one service. Raises ServerIdentityError."""
    if der is None:
        raise ServerIdentityError("the server showed no certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise ServerIdentityError("the server's certificate cannot be read") from error
    if _uris(certificate) != [expected]:
        raise ServerIdentityError(f"the server is not {expected}")
    if not issued_by(certificate, issuers):
        raise ServerIdentityError("the server's certificate is not by an issuing CA of services")


class _CheckedObject(ssl.SSLObject):
    """Checks the server at the end of the handshake: nothing was written by then."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        if not isinstance(context, NodeContext):
            raise ServerIdentityError("a connection without an expected server")
        check_server(self.getpeercert(binary_form=True), context.expected, context.issuers)


def client_context(bundle: X509Bundle, service: str) -> NodeContext:
    """A context for one service: without a client certificate until `use_session` gives it one."""
    context = NodeContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslobject_class = _CheckedObject
    context.expected = str(ServiceSpiffeId(bundle.trust_domain, service))
    context.issuers = tuple(x509.load_der_x509_certificate(der) for der in bundle.service_issuers)
    context.load_verify_locations(cadata=b"".join(bundle.roots))
    return context


class SessionKey:
    """A P-256 key pair that lives in this process only, and the CSR for it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        # An empty subject: the profile decides it, and a request that names another is refused.
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self._key, hashes.SHA256())
        self.csr_der = request.public_bytes(serialization.Encoding.DER)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    def use(self, context: NodeContext, chain: tuple[bytes, ...]) -> None:
        """Give the context this key and its certificate chain (DER, leaf first). Nothing touches a file system."""
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        fd = os.memfd_create("cascadia-session", os.MFD_CLOEXEC)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(key)
                for der in chain:
                    file.write(ssl.DER_cert_to_PEM_cert(der).encode())
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection of the library that is also closed when its handshake is cancelled."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self.read, self.write, self.aclose = inner.read, inner.write, inner.aclose  # type: ignore[method-assign]  # passed on
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]  # passed on

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):  # closing a socket does not wait
                await self._inner.aclose()
            raise


class _Backend(httpcore.TrioBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await super().connect_tcp(host, port, timeout, local_address, socket_options))


def http_client(context: NodeContext, base_url: str) -> httpx.AsyncClient:
    """A client that uses this context only: no proxies or CA files of the environment, no redirects."""
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
    # The client has no argument for the network backend, its pool has.
    transport._pool = httpcore.AsyncConnectionPool(  # noqa: SLF001
        ssl_context=context,
        max_connections=4,
        max_keepalive_connections=2,
        keepalive_expiry=KEEPALIVE_SECONDS,
        network_backend=_Backend(),
    )
    return httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def verification_failure(error: BaseException) -> str | None:
    """The reason when a failed exchange failed because the server could not prove who it is; None otherwise."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause.verify_message) if getattr(cause, "verify_message", "") else str(cause)
    return None
