"""Refusals and faults of the issuer.

    IssuerError
    ├── Refused            the request is wrong; nothing was changed
    │   ├── CsrRefused         proof of possession, key, or anything wished for
    │   ├── GenerationClosed   the generation is closed, or was never opened
    │   ├── Conflict           the request id or the generation is in another state than the caller expects
    │   ├── NotAdmitted        the caller may not have this certificate
    │   ├── EnrolmentRefused   a one-time secret is not accepted, for whatever reason
    │   ├── TriedTooOften      this source has shown wrong secrets too often; wait
    │   ├── RenewedTooOften    this generation has renewed its certificate too often; wait
    │   └── ValueRefused       a value out of bounds
    ├── Passing            not now: the same request may succeed in a second
    │   ├── IssuanceLost       the record was closed between record and signature: the certificate is not given out
    │   ├── StillRunning       another process may be at work on the same request
    │   └── AuthorityRetired   the authority stopped issuing between look and record
    ├── LintError          our own builder made something the rules forbid: a fault, never the caller's
    ├── PkilintMissing   pkilint is not installed
    ├── CeremonyError      a ceremony cannot be held; nothing was written
    └── SignerError        the CA key cannot be used
        └── SignerUnavailable  it cannot be used now: try again

`routes/problems.py` maps them to problem documents, the one such table of this service.
"""

from datetime import timedelta


class IssuerError(Exception):
    """The root of this tree."""


class Refused(IssuerError):
    """The request is refused and nothing was changed; the text says why."""


class CsrRefused(Refused):
    """The certificate request does not hold; the text names the check."""


class GenerationClosed(Refused):
    """The generation is closed, or was never opened."""


class Conflict(Refused):
    """The same request id with another key, or a generation in another state."""


class NotAdmitted(Refused):
    """The caller may not have this certificate."""


class EnrolmentRefused(Refused):
    """The one-time secret is not accepted: wrong, unknown, expired, or used for another request; never said which."""


class TriedTooOften(Refused):
    """A source has failed too often. `wait` says when it may try again."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("too many secrets of this source were refused")
        self.wait = wait


class RenewedTooOften(Refused):
    """A generation has renewed its device certificate too often. `wait` says when it may surely do so again."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("too many renewals of this generation")
        self.wait = wait


class ValueRefused(Refused):
    """A value out of bounds."""


class Passing(IssuerError):
    """Nothing is wrong with the request, and nothing was given out. Ask again."""


class IssuanceLost(Passing):
    """The record was given up before the certificate was stored. Ask again: a repeat makes a new record."""


class StillRunning(Passing):
    """Another process may be at work on the same request."""


class AuthorityRetired(Passing):
    """The authority stopped issuing between the look at it and the record."""


class LintError(IssuerError):
    """A to-be-signed certificate breaks a rule. `rule` is its stable name."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


class PkilintMissing(IssuerError):
    """pkilint, which only the checker and the tests need, is not installed."""


class CeremonyError(IssuerError):
    """A ceremony cannot be held as its file says; the text names the file and the reason. Nothing was written."""


class SignerError(IssuerError):
    """A CA key or certificate cannot be read or used, or they do not belong together."""


class SignerUnavailable(SignerError):
    """A CA key is out of reach for now (a token is away, or does not answer): the same request may succeed later."""
