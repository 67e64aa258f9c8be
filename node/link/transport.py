"""Adapter: TLS of the agent. No other module of the node imports `ssl`.

TLS 1.3 only. The trusted roots are those of the published X.509 bundle, never the system's CAs. Before the agent sends
the first byte of a request, the server proves its host name, its SPIFFE id, and that an issuing CA of services issued
its certificate. The session key exists in memory only. It reaches OpenSSL through a memfd.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from node.link.certificates import STORED_CERTIFICATES, UNREADABLE, CertificateRejected, issued_by
from node.link.connect import CONNECT_SECONDS_MAX, SOCKET_OPTIONS, LinkFailed, open_first
from node.link.http import Client, ExchangeFailed, Request
from protocol.ids import ServiceSpiffeId
from protocol.signed.trust import X509Bundle

ANSWER_SECONDS_MAX = 30.0
"""The answer to an activation proof takes about a second; it waits for two commits and a certificate."""
HTTPS_PORT = 443
_DATE_ERRORS = {9, 10}
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (X509_STORE_CTX_get_error(3)). OpenSSL checks dates
last: the chain leads to a trusted root, and the host name is right."""
_ENCODING_DER = 2


class ServerIdentityError(ssl.SSLCertVerificationError):
    """The server did not prove that it is the expected service.

    `chain` has the certificates that the server showed (DER, leaf first). `by_dates` is True if only a date is wrong.
    """

    def __init__(self, text: str, chain: tuple[bytes, ...] = (), *, by_dates: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.chain = chain
        self.by_dates = by_dates

    def __str__(self) -> str:
        return self.text


class NodeContext(ssl.SSLContext):
    """A client context for one service: its SPIFFE id and its issuing CAs. Only `client_context` makes it."""

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


class _CheckedObject(ssl.SSLObject):
    """Checks the server at the end of the handshake, before any byte of a request is written."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            by_dates = error.verify_code in _DATE_ERRORS
            raise ServerIdentityError(error.verify_message, self._chain(), by_dates=by_dates) from error
        context = self.context
        if not isinstance(context, NodeContext):
            raise ServerIdentityError("the TLS context names no expected service")
        check_server(self.getpeercert(binary_form=True), context.expected, context.issuers)

    def _chain(self) -> tuple[bytes, ...]:
        """The certificates that the server showed. Python 3.13 has a public method for them, earlier versions not."""
        shown = self._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]  # in every version since 3.10
        return tuple(certificate.public_bytes(_ENCODING_DER) for certificate in shown)


def client_context(bundle: X509Bundle, service: str) -> NodeContext:
    """A context for one service. It has no client certificate until `SessionKey.use` adds one."""
    context = NodeContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslobject_class = _CheckedObject
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


async def open_tls(
    context: ssl.SSLContext, host: str, port: int, seconds_max: float
) -> trio.SSLStream[trio.SocketStream]:
    """Open a connection to the first address of `host` that answers, and make the TLS handshake.

    The kernel probes the connection while it is idle, so that a connection that a device on the way has dropped ends
    soon. Look-up and connection have `seconds_max` together; the handshake has `seconds_max` too.

    Raises LinkFailed; ServerIdentityError if the server does not prove its identity.
    """

    async def open_one(address: str) -> trio.SocketStream:
        return await trio.open_tcp_stream(address, port)

    stream = await open_first(host, port, seconds_max, open_one)
    for option in SOCKET_OPTIONS:
        with suppress(OSError):  # a system without an option still connects
            stream.socket.setsockopt(*option)
    tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        with trio.fail_after(seconds_max):
            await tls.do_handshake()
    except BaseException as error:
        with trio.CancelScope(shield=True):  # shielded: closing a socket never waits
            await trio.aclose_forcefully(tls)
        if isinstance(error, trio.TooSlowError):
            raise LinkFailed("timed_out", f"the TLS handshake took longer than {seconds_max:g} s") from error
        unproven = verification_failure(error) if isinstance(error, trio.BrokenResourceError) else None
        if unproven is not None:
            raise unproven from error
        if isinstance(error, trio.BrokenResourceError):
            raise LinkFailed("tls_failed", f"the TLS handshake failed ({_tls_reason(error)})") from error
        raise
    return tls


def http_client(context: ssl.SSLContext, base_url: str) -> Client:
    """An HTTP client with this context, for the server at `base_url` (https, with a host and perhaps a port)."""
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port or HTTPS_PORT
    return Client(lambda seconds_max: open_tls(context, host, port, seconds_max), parts.netloc)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def verification_failure(error: BaseException) -> ServerIdentityError | None:
    """The reason if an exchange failed because the server did not prove its identity; None for any other failure."""
    return next((cause for cause in _causes(error) if isinstance(cause, ServerIdentityError)), None)


def _tls_reason(error: BaseException) -> str:
    """OpenSSL's reason, such as `WRONG_VERSION_NUMBER`; or the end of the connection."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason.lower().replace("_", " ")
    return "the server ended the connection"


async def unproven_date(base_url: str) -> str:
    """The `Date` header of a server that proved nothing, or "". Use it only in a text for people.

    The request has no secret: `HEAD /` without a client certificate. Anybody on the way can make up the answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with trio.move_on_after(CONNECT_SECONDS_MAX):
        try:
            async with http_client(context, base_url) as client:
                answer = await client.request(
                    Request("HEAD", "/"),
                    connect_seconds_max=CONNECT_SECONDS_MAX,
                    answer_seconds_max=ANSWER_SECONDS_MAX,
                    body_bytes_max=0,
                )
                return answer.headers.get("date", "")
        except (LinkFailed, ExchangeFailed, ServerIdentityError, trio.TooSlowError):
            return ""
    return ""
