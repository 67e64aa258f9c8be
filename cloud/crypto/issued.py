"""Pure: whether a CA signed a certificate."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed `certificate`, under the name that `certificate` gives as its issuer.

    False as well where the signature's algorithm or the issuer's key is of a kind that the library does not know.
    Dates, extensions and the chain above `issuer` are not checked.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def issuer_among(certificate: x509.Certificate, issuers: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """The first of `issuers` that signed `certificate`, or None."""
    return next((issuer for issuer in issuers if is_issued_by(certificate, issuer)), None)
