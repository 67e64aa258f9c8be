"""Adapter: TLS of the agent. No other module of the node imports `ssl`.

TLS 1.3 only. The trusted roots are those of the published X.509 bundle, never the system's CAs. Before the agent sends
the first byte of a request, the server proves its host name, its SPIFFE id, and that an issuing CA of services issued
its certificate. The session key exists in memory only. It reaches OpenSSL through a memfd.
"""

import os
import ssl
from collections.abc import Callable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from node.link.certificates import STORED_CERTIFICATES, UNREADABLE, CertificateRejected, Window, issued_by, out_of_dates
from protocol.ids import ServiceSpiffeId
from protocol.signed.trust import X509Bundle

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


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and the exceptions that led to it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def verification_failure(error: BaseException) -> ServerIdentityError | None:
    """The reason if an exchange failed because the server did not prove its identity; None for any other failure."""
    return next((cause for cause in causes(error) if isinstance(cause, ServerIdentityError)), None)
