"""Pure functions: tell whether a CA signed a certificate."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return True if `issuer` signed `certificate` and has the name that `certificate` gives as its issuer.

    Returns False if the library does not know the signature's algorithm or the kind of the issuer's key. Dates,
    extensions and the chain above `issuer` are not checked.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def issuer_among(certificate: x509.Certificate, issuers: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """Return the first of `issuers` that signed `certificate`, or None."""
    return next((issuer for issuer in issuers if is_issued_by(certificate, issuer)), None)
