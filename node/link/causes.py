"""Pure functions: texts for a server's certificate and for a wrong clock."""

from datetime import datetime, timedelta

from cryptography import x509

from node.link.certificates import UNREADABLE, Window, out_of_dates
from node.text import duration, shown

NAME_CHARACTERS_MAX = 120
"""A stranger's certificate can have names of any length."""


def whom(chain: tuple[bytes, ...]) -> str:
    """Subject and issuer of the certificate that a server showed (DER, leaf first), as a sentence."""
    try:
        leaf = x509.load_der_x509_certificate(chain[0]) if chain else None
        names = (leaf.subject.rfc4514_string(), leaf.issuer.rfc4514_string()) if leaf is not None else None
    except UNREADABLE:
        names = None
    if names is None:
        return "The server's certificate cannot be read." if chain else "The server showed no certificate."
    subject, issuer = (shown(name, NAME_CHARACTERS_MAX) or "an empty name" for name in names)
    return f"The server showed a certificate of {subject}, issued by {issuer}."


def current(chain: tuple[bytes, ...], now: datetime) -> bool:
    """Whether every certificate of the chain (DER) is within its dates at `now`, a time of the wall clock."""
    try:
        return not any(out_of_dates(x509.load_der_x509_certificate(der), Window(now, now)) for der in chain)
    except UNREADABLE:
        return False


def wrong_clock(error: timedelta) -> str:
    """A sentence for a clock that is ahead of another by `error`, or behind if `error` is below 0."""
    return f"this machine's clock is {'fast' if error > timedelta(0) else 'slow'} by {duration(abs(error))}"
