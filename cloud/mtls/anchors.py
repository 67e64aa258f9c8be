"""Pure functions: the trust anchors of a TLS server, for the certificates of its clients."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.crypto.issued import is_issued_by
from cloud.mtls.peer import PeerTrust

_ROOT_EXTENSIONS = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
)
"""A root with any other extension may constrain the certificates below it, so OpenSSL checks it at each handshake."""


def client_anchors(trust: PeerTrust) -> bytes:
    """Return the trust anchors in PEM: the roots, and each issuing CA that one of the roots covers.

    OpenSSL ends a client's chain at the issuing CA then, and the P-384 signature of the root is verified here, once for
    each change of the trust. In every handshake it would take 0.9 ms, more than all the rest of OpenSSL's work.
    The dates of the issuing CA and its constraints are still checked in every handshake.
    """
    roots = trust.roots or ()
    issuers = (ca for ca in (*trust.node_issuers, *trust.service_issuers) if any(_covers(root, ca) for root in roots))
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in (*roots, *issuers))


def _covers(root: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether a chain that ends at the CA has a valid extension to the root, as long as the CA is within its dates.

    RFC 5280 section 6.1: the root issued the CA, may sign certificates, is a CA with room for another below it, and
    outlives the CA.
    """
    try:
        extensions = root.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return (
        basic.ca
        and usage.key_cert_sign
        and (basic.path_length is None or basic.path_length >= 1)
        and all(isinstance(extension.value, _ROOT_EXTENSIONS) for extension in extensions)
        and root.not_valid_before_utc <= ca.not_valid_before_utc
        and ca.not_valid_after_utc <= root.not_valid_after_utc
        and is_issued_by(ca, root)
    )
