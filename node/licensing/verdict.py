"""Pure function: may this machine's licensed software run, and why (the table of section 6 of the design).

Evidence in, verdict out; no I/O, no clock. Only signed statements move a node to suspended or revoked. Silence moves it
along its lease's dates. Evidence that is missing, damaged or unproven never opens the gate.

Choices where the design leaves room:
- "Past" a date begins at that instant: a lease that terminates at t is terminated at t.
- One generation is judged. While a newer one waits for its confirmation the confirmed one is judged and runs on; a
  revoked one is not judged when a newer one waits, or the node could never come to confirm it. (The caller chooses.)
- No statement, a statement that does not verify, or a tombstone that does not verify is `stale`: the node asks the
  cloud. Such a tombstone does not revoke, since nobody signed it; a torn disk must not undo a revocation either.
- Leases are judged at the later of the wall clock and the lease's `issued_at`, which is a signed time and has surely
  passed. So a clock that fell back (an empty coin cell) locks no site; it is flagged. Trusted time will raise this
  bound; until then a clock held back stretches a lease.
- The gate opens only when the TPM has answered as this node's in the present run. If it fails after that, the lease's
  dates decide; from `refresh_after` on the exit code says TPM, for without it there is no new lease.
- A verdict is valid for at most 60 s and never past the next date at which it would change.
"""

from datetime import datetime
from typing import Literal

import msgspec

from node.exits import Exit
from node.licensing.acceptance import StoredEvidence
from protocol.limits import CLOCK_SKEW, LICENSE_ANSWER_LIFE
from protocol.signed.statements import Holder, Lease, Revocation, Suspension

LicenceState = Literal[
    "unactivated",
    "revoked",
    "pending",
    "suspended",
    "hardware-mismatch",
    "stale",
    "terminated",
    "restricted",
    "grace",
    "refresh-due",
    "active",
]
"""In the order of the table; `recovery-pending` will come before `stale`."""

Hardware = Literal["ours", "other", "unavailable", "unchecked"]
"""What the TPM's last answer was: this node's key; another TPM's; no answer, or an error; not asked yet."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that a verdict rests on. `holder` is the generation that is judged, `unconfirmed` if it is not in force yet.

    `proven`: the TPM has answered as ours in the present run, whatever it says now.
    """

    holder: Holder | None
    stored: StoredEvidence
    hardware: Hardware
    now: datetime
    unconfirmed: bool = False
    proven: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`deadline` is the next date at which the state changes by itself; `exit` is what `cascadia status` exits with."""

    state: LicenceState
    gate_open: bool
    new_work: bool
    reason: str
    next: str
    deadline: datetime | None
    valid_until: datetime
    exit: Exit
    clock_suspect: bool = False
    hardware_failing: bool = False
    damaged: tuple[str, ...] = ()


class _Row(msgspec.Struct, frozen=True):
    gate_open: bool
    new_work: bool
    exit: Exit
    reason: str
    next: str = ""


_ASKING = "Connect the machine to the cloud; the agent asks for a new lease by itself."

_TABLE: dict[LicenceState, _Row] = {
    "unactivated": _Row(False, False, Exit.UNACTIVATED, "this machine is not activated"),
    "revoked": _Row(False, False, Exit.REVOKED, "the cloud has ended this machine's licence"),
    "pending": _Row(False, False, Exit.PENDING, "the activation is not confirmed yet"),
    "suspended": _Row(False, False, Exit.SUSPENDED, "the cloud has suspended the licence"),
    "hardware-mismatch": _Row(False, False, Exit.HARDWARE_MISMATCH, "the TPM is not the one that was activated"),
    "stale": _Row(False, False, Exit.STALE, "no statement at hand can be trusted"),
    "terminated": _Row(False, False, Exit.TERMINATED, "the lease has terminated"),
    "restricted": _Row(True, False, Exit.OK, "the lease is past its grace: no new work", _ASKING),
    "grace": _Row(True, True, Exit.OK, "the lease has expired and runs in its grace", _ASKING),
    "refresh-due": _Row(True, True, Exit.OK, "the lease is due for refresh", "Nothing: the agent refreshes it."),
    "active": _Row(True, True, Exit.OK, "the lease is current"),
}

STATES: tuple[LicenceState, ...] = tuple(_TABLE)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The licence of a generation at one instant: what one answer to a local program is made of."""

    holder: Holder
    hardware: Hardware
    lease: Lease | None
    verdict: Verdict


def current_lease(stored: StoredEvidence, holder: Holder | None) -> Lease | None:
    """The lease that counts for the holder, if its current statement is one."""
    verified = stored.statement
    if verified is None or holder is None or not isinstance(verified.statement, Lease):
        return None
    return verified.statement if holder.holds(verified.statement) else None


def current_revocation(stored: StoredEvidence, holder: Holder) -> Revocation | None:
    """The revocation that has ended the holder's generation, if there is one."""
    for verified in (stored.tombstone, stored.statement):
        if verified is not None and isinstance(verified.statement, Revocation) and holder.holds(verified.statement):
            return verified.statement
    return None


def _suspension(evidence: Evidence, holder: Holder) -> Suspension | None:
    verified = evidence.stored.statement
    if verified is None or not isinstance(verified.statement, Suspension) or not holder.holds(verified.statement):
        return None
    return verified.statement


def _by_dates(lease: Lease, at: datetime) -> LicenceState:
    if at >= lease.terminate_at:
        return "terminated"
    if at >= lease.grace_until:
        return "restricted"
    if at >= lease.expires_at:
        return "grace"
    return "refresh-due" if at >= lease.refresh_after else "active"


def _judge(evidence: Evidence) -> tuple[LicenceState, str]:
    """The first row that matches, from the top, and what is to be said beside its reason."""
    holder, stored = evidence.holder, evidence.stored
    if holder is None:
        return "unactivated", ""
    if revocation := current_revocation(stored, holder):
        return "revoked", revocation.reason
    if evidence.unconfirmed:
        return "pending", ""
    if suspension := _suspension(evidence, holder):
        return "suspended", suspension.reason
    if evidence.hardware == "other":
        return "hardware-mismatch", ""
    # A tombstone that is there but is not this holder's revocation is as doubtful as one that does not verify.
    if stored.tombstone_doubtful or stored.tombstone is not None:
        return "stale", "a tombstone is there and cannot be verified"
    lease = current_lease(stored, holder)
    if lease is None:
        return "stale", "the stored statement is damaged" if stored.damaged else "none is stored"
    return _by_dates(lease, _at(lease, evidence.now)), ""


def _at(lease: Lease, now: datetime) -> datetime:
    return max(now, lease.issued_at)


def _deadline(lease: Lease, at: datetime) -> datetime | None:
    dates = (lease.refresh_after, lease.expires_at, lease.grace_until, lease.terminate_at)
    return min((date for date in dates if date > at), default=None)


def judge(evidence: Evidence) -> Verdict:
    """The verdict at `evidence.now` (aware). Total: every evidence has one."""
    state, detail = _judge(evidence)
    row, now = _TABLE[state], evidence.now
    lease = (
        current_lease(evidence.stored, evidence.holder)
        if state in ("terminated", "restricted", "grace", "refresh-due", "active")
        else None
    )
    reason, code = f"{row.reason} ({detail})" if detail else row.reason, row.exit
    gate_open, life, deadline, clock_suspect = row.gate_open, LICENSE_ANSWER_LIFE, None, False
    if lease is not None:
        at = _at(lease, now)
        deadline = _deadline(lease, at)
        clock_suspect = now < lease.issued_at - CLOCK_SKEW
        life = min(life, deadline - at) if deadline else life
    failing = evidence.hardware == "unavailable"
    if gate_open and lease is not None:
        if evidence.hardware != "ours" and not (failing and evidence.proven):
            gate_open, reason, code = False, "the TPM has not answered as this machine's in this run", Exit.TPM
        elif failing and _at(lease, now) >= lease.refresh_after:
            reason, code = f"{reason}, and the TPM does not answer", Exit.TPM
    return Verdict(
        state=state,
        gate_open=gate_open,
        new_work=row.new_work and gate_open,
        reason=reason,
        next=code.next if code is not Exit.OK else row.next,
        deadline=deadline,
        valid_until=now + life,
        exit=code,
        clock_suspect=clock_suspect,
        hardware_failing=failing,
        damaged=evidence.stored.damaged,
    )


def entitled(verdict: Verdict, lease: Lease | None, name: str) -> bool:
    """Whether the software that asks for the entitlement may run now."""
    return verdict.gate_open and lease is not None and name in lease.entitlements
