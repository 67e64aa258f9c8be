"""Errors: refusals and faults of the issuer.

    IssuerError
    ├── Refused            the request is wrong; nothing was changed
    │   ├── CsrRefused         the CSR fails a check: proof of possession, key, or a name it asks for
    │   ├── GenerationClosed   the generation is closed, or was never opened
    │   ├── Conflict           a request id, a generation or an authority is in another state than the caller expects
    │   ├── NotAdmitted        the caller may not have this certificate
    │   ├── EnrolmentRefused   a one-time secret is not accepted
    │   ├── TriedTooOften      this source has sent wrong secrets, or this secret was used, too often
    │   ├── SessionsTooOften   this node has opened sessions too often
    │   ├── RenewedTooOften    this generation has renewed its certificate too often
    │   └── ValueRefused       a value is out of bounds
    ├── Transient          a retry of the same request may succeed in a second
    │   ├── IssuanceLost       the record was given up before its certificate was stored; no certificate is returned
    │   ├── StillRunning       another process may be working on the same request
    │   └── AuthorityRetired   the authority stopped issuing before the record was made
    ├── LintError          our own builder broke a rule; a fault of the issuer, not of the caller
    ├── PkilintMissing     pkilint is not installed
    ├── CeremonyError      a ceremony failed; nothing was written
    └── SignerError        the CA key cannot be used
        └── SignerUnavailable  the CA key cannot be used now; a retry may succeed
            └── AuthorityNotCurrent  the CA certificate has expired, or begins in the future

`routes/problems.py` maps these errors to problem documents.
"""

from datetime import timedelta


class IssuerError(Exception):
    """The root of this tree."""


class Refused(IssuerError):
    """The request is refused and nothing was changed; the text says why."""


class CsrRefused(Refused):
    """The certificate request failed a check. The text names the check."""


class GenerationClosed(Refused):
    """The generation is closed, or was never opened."""


class Conflict(Refused):
    """The request does not fit a stored state: its request id, its generation, or the state of an authority."""


class NotAdmitted(Refused):
    """The caller may not have this certificate."""


class EnrolmentRefused(Refused):
    """The one-time secret is wrong, unknown, expired, or used for another request. The text does not say which."""


class TriedTooOften(Refused):
    """A source has failed too often, or a secret was used too often. After `wait` it may try again."""

    def __init__(self, wait: timedelta, why: str = "too many wrong secrets from this source") -> None:
        super().__init__(f"{why}; try again later")
        self.wait = wait


class SessionsTooOften(Refused):
    """A node has opened sessions too often. After `wait` it may open one."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("too many sessions of this node; try again later")
        self.wait = wait


class RenewedTooOften(Refused):
    """A generation has renewed its device certificate too often. After `wait` it may certainly renew again."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("too many renewals of this generation; try again later")
        self.wait = wait


class ValueRefused(Refused):
    """A value is out of bounds, or does not fit the object."""


class Transient(IssuerError):
    """The request is right, but no certificate was returned. A retry may succeed."""


class IssuanceLost(Transient):
    """The record was given up before the certificate was stored. A retry makes a new record."""


class StillRunning(Transient):
    """Another process may be working on the same request."""


class AuthorityRetired(Transient):
    """The authority stopped issuing before the record was made."""


class LintError(IssuerError):
    """A to-be-signed certificate or CRL breaks a rule. `rule` is the rule's stable name."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


class PkilintMissing(IssuerError):
    """pkilint is not installed. Only the checker and the tests need it."""


class CeremonyError(IssuerError):
    """A ceremony failed, and nothing was written. The text gives the reason."""


class SignerError(IssuerError):
    """A CA key or certificate cannot be used, or they do not belong together."""


class SignerUnavailable(SignerError):
    """A CA key is not available now, because its token is missing or does not answer. A retry may succeed."""


class AuthorityNotCurrent(SignerUnavailable):
    """The certificate of a CA has expired, or begins in the future. The text names the date.

    `next_step` says in whole sentences what the operator does.
    """

    def __init__(self, text: str, next_step: str) -> None:
        super().__init__(text)
        self.next_step = next_step
