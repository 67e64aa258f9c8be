"""Pure functions: find the CAs whose certificates are not valid now, and name the operator's next step.

A CA certificate that begins in the future was made while the clock of its host was ahead. Every certificate below the
CA begins with the CA or later, so no peer accepts any of them before. The issuer cannot replace a CA by itself, because
the root's key is offline.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from cloud.breakwater.pkix.profiles import CaName, Issuer
from cloud.crypto.validity import outside

_CHECK = "Check the clock of this host."
_AHEAD = (
    "If the clock was ahead when the CA was made: wait until that date, or, if no node is activated yet, move the "
    "directory of the installation away and run `cascade init` again."
)


class DateFault(msgspec.Struct, frozen=True):
    """A certificate that is not valid now. `fault` is the predicate of a sentence, `next_step` are whole sentences."""

    subject: str
    fault: str
    next_step: str


def ca_fault(issuer: Issuer, now: datetime) -> DateFault | None:
    """Return the fault of a CA's certificate, or None if the certificate is valid now."""
    fault = outside(issuer.not_before, issuer.not_after, now)
    if not fault:
        return None
    ahead = (_AHEAD,) if now < issuer.not_before else ()
    return DateFault(issuer.authority, fault, " ".join((_CHECK, *ahead, _new_generation(issuer.name))))


def ca_faults(issuers: Iterable[Issuer], now: datetime) -> tuple[DateFault, ...]:
    """Return the faults of these CAs' certificates."""
    return tuple(fault for issuer in issuers if (fault := ca_fault(issuer, now)) is not None)


def _new_generation(ca: CaName) -> str:
    if ca == "root":
        return "A new root and its issuing CAs are made as docs/rotation.md describes."
    return (
        f"A new generation begins with `cascade pki rotate request {ca} --out FILE --dir DIR`; docs/rotation.md has the "
        "other steps."
    )
