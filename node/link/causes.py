"""Pure functions: texts for a server's certificate and for a wrong clock. A caller gives the time.

A certificate that a trusted CA issued shows the clock's error: its `notBefore` has passed when the certificate is in
use. So a clock that is earlier is slow by at least the difference.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from cryptography import x509

from node.link.certificates import UNREADABLE
from node.text import duration, shown

NAME_CHARACTERS_MAX = 120
"""A stranger's certificate can have names of any length."""


def _readable(chain: tuple[bytes, ...]) -> Iterator[x509.Certificate]:
    for der in chain:
        try:
            yield x509.load_der_x509_certificate(der)
        except UNREADABLE:
            continue


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


def slow_by(chain: tuple[bytes, ...], now: datetime) -> timedelta:
    """How far `now` is before the `notBefore` of a certificate of the chain (DER); 0 if it is not."""
    ahead = (certificate.not_valid_before_utc - now for certificate in _readable(chain))
    return max((timedelta(0), *ahead))


def expired(chain: tuple[bytes, ...], now: datetime) -> bool:
    """Whether a certificate of the chain (DER) has expired at `now`."""
    return any(certificate.not_valid_after_utc <= now for certificate in _readable(chain))


def time_of(date: str) -> datetime | None:
    """The time in a `Date` header (RFC 9110 section 6.6.1), aware; None if the header is missing or unusable."""
    try:
        time = parsedate_to_datetime(date)
    except Exception:  # noqa: BLE001 (the text is a stranger's; not all errors of the parser are documented)
        return None
    return time if time.tzinfo is not None else None


def wrong_clock(error: timedelta) -> str:
    """A sentence for a clock that is ahead of another by `error`, or behind if `error` is below 0."""
    return f"this machine's clock is {'fast' if error > timedelta(0) else 'slow'} by {duration(abs(error))}"
