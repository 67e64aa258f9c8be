"""Pure functions: judge both ends of a validity. A certificate can have ended, and it can begin in the future.

A validity begins in the future if the clock of the issuer was ahead when the certificate was made. Certificates begin
`CLOCK_SKEW` (5 minutes) before their issue, so a clock that was ahead by less than this does no harm. There is no
other tolerance, because peers have none.
"""

from datetime import datetime, timedelta

from cryptography import x509


def is_current(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether `now` is within the dates of a certificate (RFC 5280 section 4.1.2.5)."""
    return not outside(certificate.not_valid_before_utc, certificate.not_valid_after_utc, now)


def outside(begins: datetime, ends: datetime, now: datetime) -> str:
    """Return why `now` is outside of a validity, as the predicate of a sentence. Return "" if it is within."""
    if now < begins:
        return f"is not valid before {_text(begins)}, which is {_span(begins - now)} in the future"
    if now >= ends:
        return f"has expired at {_text(ends)}"
    return ""


def _text(date: datetime) -> str:
    return f"{date:%Y-%m-%d %H:%M:%S} UTC"


def _span(span: timedelta) -> str:
    hours, rest = divmod(int(span.total_seconds()), 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
