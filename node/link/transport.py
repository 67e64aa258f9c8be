"""Adapter: TLS of the agent. No other module of the node imports `ssl`.

TLS 1.3 only. The trusted roots are those of the published X.509 bundle, never the system's CAs. Before the agent sends
the first byte of a request, the server proves its host name, its SPIFFE id, and that an issuing CA of services issued
its certificate. The session key exists in memory only. It reaches OpenSSL through a memfd.
"""

import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import httpcore
import httpx
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from node.link.certificates import STORED_CERTIFICATES, UNREADABLE, CertificateRejected, Window, issued_by, out_of_dates
from node.link.connect import CONNECT_SECONDS_MAX, SOCKET_OPTIONS, LinkFailed, open_first
from protocol.ids import ServiceSpiffeId
from protocol.signed.trust import X509Bundle

ANSWER_SECONDS_MAX = 30.0
"""The answer to an activation proof takes about a second; it waits for two commits and a certificate."""
KEEPALIVE_SECONDS = 5.0
"""An idle connection stays open for the requests of one exchange, not until the next heartbeat slot."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (X509_VERIFY_PARAM_set_flags(3)). OpenSSL compares dates with the wall clock, which may be
wrong. So the dates of the verified chain are compared here, with trusted time."""
_ENCODING_DER = 2


class ServerIdentityError(ssl.SSLCertVerificationError):
    """The server did not prove that it is the expected service.

    `chain` has the certificates that the server showed (DER, leaf first). `by_dates` is True if only a date is wrong: the
    chain leads to a trusted root, and the names are right.
    """

    def __init__(self, text: str, chain: tuple[bytes, ...] = (), *, by_dates: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.chain = chain
        self.by_dates = by_dates

    def __str__(self) -> str:
        return self.text


class NodeContext(ssl.SSLContext):
    """A client context for one service: its SPIFFE id, its issuing CAs, trusted time. Only `client_context` makes it."""

    expected: str
    issuers: tuple[x509.Certificate, ...]
    window: Callable[[], Window]


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except (*UNREADABLE, x509.ExtensionNotFound):
        return []
    if not isinstance(names, x509.SubjectAlternativeName):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def check_server(der: bytes | None, expected: str, issuers: tuple[x509.Certificate, ...]) -> None:
    """Check that a server is the expected service.

    Args:
        der: the server's certificate; None if it showed none.
        expected: the service's SPIFFE id.
        issuers: the issuing CAs of services.

    Raises ServerIdentityError.
    """
    if der is None:
        raise ServerIdentityError("the server showed no certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise ServerIdentityError("the server's certificate cannot be read") from error
    if _uris(certificate) != [expected]:
        raise ServerIdentityError(f"the server is not {expected}", (der,))
    if not issued_by(certificate, issuers):
        raise ServerIdentityError("no issuing CA of services issued the server's certificate", (der,))


def check_dates(chain: tuple[bytes, ...], window: Window) -> None:
    """Check the dates of a verified chain (DER, leaf first). Raises ServerIdentityError."""
    for der in chain:
        outside = out_of_dates(x509.load_der_x509_certificate(der), window)
        if outside:
            raise ServerIdentityError(
                f"a certificate of its chain is out of its dates: {outside}", chain, by_dates=True
            )


class _CheckedObject(ssl.SSLObject):
    """Checks the server at the end of the handshake, before any byte of a request is written."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise ServerIdentityError(error.verify_message, self._chain()) from error
        context = self.context
        if not isinstance(context, NodeContext):
            raise ServerIdentityError("the TLS context names no expected service")
        check_server(self.getpeercert(binary_form=True), context.expected, context.issuers)
        check_dates(self._chain(verified=True), context.window())

    def _chain(self, *, verified: bool = False) -> tuple[bytes, ...]:
        """The certificates that the server showed, or those of the verified chain up to the root.

        Python 3.13 has public methods for them, earlier versions not.
        """
        held = self._sslobj  # type: ignore[attr-defined]  # both methods are in every version since 3.10
        shown = (held.get_verified_chain() if verified else held.get_unverified_chain()) or ()
        return tuple(certificate.public_bytes(_ENCODING_DER) for certificate in shown)


def client_context(bundle: X509Bundle, service: str, window: Callable[[], Window]) -> NodeContext:
    """A context for one service. It has no client certificate until `SessionKey.use` adds one.

    `window` returns the times at which the dates of the server's chain are judged, at each handshake.
    """
    context = NodeContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= _NO_CHECK_TIME
    context.sslobject_class = _CheckedObject
    context.window = window
    context.expected = str(ServiceSpiffeId(bundle.trust_domain, service))
    context.issuers = tuple(x509.load_der_x509_certificate(der) for der in bundle.service_issuers)
    context.load_verify_locations(cadata=b"".join(bundle.roots))
    return context


class SessionKey:
    """A P-256 key pair in the memory of this process, and its PKCS#10 request (`csr_der`)."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        # The subject is empty because the issuer's profile decides it; a request with another subject is refused.
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self._key, hashes.SHA256())
        self.csr_der = request.public_bytes(serialization.Encoding.DER)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public part of the key."""
        return self._key.public_key()

    def use(self, context: NodeContext, chain: tuple[bytes, ...]) -> None:
        """Add this key and its certificate chain (DER, leaf first) to the context. No file system holds the key.

        Certificates above the issuer that OpenSSL refuses are left out. Raises CertificateRejected for leaf or issuer.
        """
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            _load(context, key, chain)
        except ssl.SSLError:
            # OpenSSL also refuses certificates above the issuer for a weak hash or key. Servers that trust the
            # issuer's root need none of them.
            try:
                _load(context, key, chain[:STORED_CERTIFICATES])
            except ssl.SSLError as error:
                raise CertificateRejected(1, f"OpenSSL refuses it: {error.reason}") from error


def _load(context: ssl.SSLContext, key: bytes, chain: tuple[bytes, ...]) -> None:
    """Load a key (PEM) and a chain (DER, leaf first) from a memfd. Raises ssl.SSLError."""
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
    """A connection of the library. Unlike the library's, it is closed when its handshake is cancelled.

    The kernel probes it while it is idle, so that a connection that a device on the way has dropped ends soon.
    """

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self.read, self.write, self.aclose = inner.read, inner.write, inner.aclose  # type: ignore[method-assign]  # passed on
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]  # passed on
        for option in SOCKET_OPTIONS:
            with suppress(OSError):  # a system without an option still connects
                inner.get_extra_info("socket").setsockopt(*option)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):  # shielded: closing a socket never waits
                await self._inner.aclose()
            raise
        except httpcore.ConnectTimeout as error:
            raise LinkFailed("timed_out", f"the TLS handshake took longer than {timeout:g} s") from error
        except httpcore.ConnectError as error:
            if verification_failure(error) is not None:
                raise
            raise LinkFailed("tls_failed", f"the TLS handshake failed ({_tls_reason(error)})") from error


class _Backend(httpcore.TrioBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        async def open_one(address: str) -> _Stream:
            return _Stream(await super(_Backend, self).connect_tcp(address, port, None, local_address, socket_options))

        return await open_first(host, port, CONNECT_SECONDS_MAX if timeout is None else timeout, open_one)


def http_client(context: NodeContext, base_url: str) -> httpx.AsyncClient:
    """An HTTP client with this context. It ignores proxies and CA files of the environment, and follows no redirect."""
    return _client(context, base_url)


def _client(context: ssl.SSLContext, base_url: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
    # Only the pool takes the network backend as an argument; the transport does not.
    transport._pool = httpcore.AsyncConnectionPool(  # noqa: SLF001 (see above)
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


def verification_failure(error: BaseException) -> ServerIdentityError | None:
    """The reason if an exchange failed because the server did not prove its identity; None for any other failure."""
    return next((cause for cause in _causes(error) if isinstance(cause, ServerIdentityError)), None)


def link_failure(error: BaseException) -> LinkFailed | None:
    """The reason if an exchange failed because no connection could be made; None for any other failure."""
    return next((cause for cause in _causes(error) if isinstance(cause, LinkFailed)), None)


def _tls_reason(error: BaseException) -> str:
    """OpenSSL's reason, such as `WRONG_VERSION_NUMBER`; or the end of the connection."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason.lower().replace("_", " ")
    return "the server ended the connection"
