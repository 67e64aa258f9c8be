"""Refusals and faults of the issuer.

    IssuerError
    ├── Refused            the request is wrong; nothing was changed
    │   ├── CsrRefused         proof of possession, key, or anything wished for
    │   ├── GenerationClosed   the generation is closed, or was never opened
    │   ├── Conflict           the request id or the generation is in another state than the caller believes
    │   ├── NotAdmitted        the caller may not have this certificate
    │   └── ValueRefused       a value out of bounds
    ├── IssuanceLost       the record was closed between record and signature: the certificate is not given out
    ├── LintError          our own builder made something the rules forbid: a fault, never the caller's
    └── SignerError        the CA key cannot be used

`routes/problems.py` maps them to problem documents, the one such table of this service.
"""


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


class ValueRefused(Refused):
    """A value out of bounds."""


class IssuanceLost(IssuerError):
    """The record was given up before the certificate was stored. Ask again: a repeat makes a new record."""


class LintError(IssuerError):
    """A to-be-signed certificate breaks a rule. `rule` is its stable name."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


class SignerError(IssuerError):
    """A CA key or certificate cannot be read or used, or they do not belong together."""
