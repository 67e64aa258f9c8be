"""Pure functions: whether the licence grants one entitlement now, with its terms, and why.

An entitlement is granted while the gate is open, the lease has it, and its dates allow it. Its dates are judged at the
same time as the lease: at `high` of trusted time (`node.licensing.trusted_time`), or at the lease's `issued_at` if that
is later.
"""

from datetime import datetime
from typing import Literal

import msgspec

from node.licensing.verdict import Snapshot
from protocol.signed.statements import Entitlement

Why = Literal["granted", "gate-closed", "not-included", "not-yet", "ended"]
"""`granted`; `gate-closed` the licence allows nothing now; `not-included` the lease has no entitlement of this name;
`not-yet` it begins later; `ended` it has ended."""


class EntitlementVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict about one entitlement.

    Attributes:
        granted: licensed software may use it.
        why: why, for programs.
        reason: why, for people.
        terms: the entitlement as the lease has it; None if the lease has none of this name.
        valid_until: the end of this verdict by the wall clock: that of the licence's verdict, or the next date of the
            entitlement if that is sooner.
    """

    granted: bool
    why: Why
    reason: str
    terms: Entitlement | None
    valid_until: datetime


def judge_entitlement(snapshot: Snapshot, name: str) -> EntitlementVerdict:
    """The verdict about the entitlement `name` at the time of the snapshot."""
    return _judge(snapshot, name, snapshot.lease.entitlement(name) if snapshot.lease is not None else None)


def granted_names(snapshot: Snapshot) -> frozenset[str]:
    """The names of the entitlements that are granted at the time of the snapshot."""
    if snapshot.lease is None or not snapshot.verdict.gate_open:
        return frozenset()
    each = (
        grant if isinstance(grant, Entitlement) else Entitlement(name=grant) for grant in snapshot.lease.entitlements
    )
    return frozenset(terms.name for terms in each if _judge(snapshot, terms.name, terms).granted)


def _judge(snapshot: Snapshot, name: str, terms: Entitlement | None) -> EntitlementVerdict:
    verdict, lease, time = snapshot.verdict, snapshot.lease, snapshot.time
    why: Why = "granted"
    reason, valid_until = verdict.reason, verdict.valid_until
    if not verdict.gate_open:
        why = "gate-closed"
    elif lease is None or terms is None or time is None:
        why, reason = "not-included", f"the licence does not include {name!r}"
    else:
        at = max(time.high, lease.issued_at)
        if terms.until is not None and at >= terms.until:
            why, reason = "ended", f"the entitlement {name!r} ended at {_text(terms.until)}"
        elif terms.not_before is not None and at < terms.not_before:
            why, reason = "not-yet", f"the entitlement {name!r} begins at {_text(terms.not_before)}"
        next_date = min(
            (date for date in (terms.not_before, terms.until) if date is not None and date > at), default=None
        )
        if next_date is not None:
            valid_until = min(valid_until, time.wall + (next_date - at))
    return EntitlementVerdict(granted=why == "granted", why=why, reason=reason, terms=terms, valid_until=valid_until)


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
