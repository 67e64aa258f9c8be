"""Pure functions: the verdict. It says whether this machine's licensed software may run, and why.

The verdict follows from the evidence alone. Only a signed statement suspends or revokes a node. While the cloud is
silent, the dates of the lease decide. Missing, damaged or unproven evidence never opens the gate.

The rules:

- A date counts from its instant: a lease that terminates at t is terminated at t.
- One generation is judged, and the caller chooses it. While a newer generation waits for its confirmation, the caller
  has the confirmed generation judged. If the confirmed generation is revoked, the caller has the newer one judged,
  because otherwise the node could never confirm it.
- A verified statement of the node's higher, confirmed generation voids a lower generation: its lease opens no gate,
  whatever `current.json` says. If the statement revokes or releases the node, the lower generation is revoked.
- A missing statement, a statement that does not verify, and a tombstone that does not verify lead to `stale`: the gate
  closes and the agent asks the cloud. A tombstone that does not verify revokes nothing, because no valid signature is
  on it. It does not count as missing either, because a torn disk must not undo a revocation.
- A restored disk gains nothing: a floor record that does not fit the counter in the TPM, and a statement below the
  record, lead to `stale`. A TPM that does not answer about the counter judges nothing.
- A lease is judged at the later of `high` (`node.licensing.trusted_time`) and the lease's `issued_at`, a signed time
  that has surely passed. So a clock that fell back (an empty coin cell) does not stop a site. A clock that is held back
  prolongs a lease by the time without power or asleep, and by the free losses of the TPM's clock. A wrong clock is
  flagged.
- A lease that has terminated by the wall clock alone, while this clock is suspect, has the exit code of the clock. The
  gate opens again when the clock is corrected, or when the cloud has signed a time.
- A grace lease of a recovery opens the gate until its one end. A person or a recovery code must still approve the
  recovery. Then an ordinary lease follows.
- The gate opens only if the TPM of the activation is in this machine: it has used the node's key since the machine
  started, or shows the recorded endorsement key. If this TPM then fails, the lease's dates decide. From
  `refresh_after` on the exit code is that of the TPM, because without the TPM there is no new lease.
- A verdict is valid for at most 60 s, and never past the next date at which it changes.
"""

from datetime import datetime
from typing import Literal

import msgspec

from node.exits import Exit
from node.licensing.acceptance import StoredEvidence
from node.licensing.floors import NO_FLOOR, FloorStatus, FloorView
from node.licensing.notices import Notice
from node.licensing.trusted_time import Judged
from protocol.fingerprint import Judgement
from protocol.limits import CLOCK_SKEW, LICENSE_ANSWER_LIFE
from protocol.signed.statements import Holder, Lease, Revocation, Suspension, position

LicenceState = Literal[
    "unactivated",
    "revoked",
    "pending",
    "suspended",
    "hardware-mismatch",
    "stale",
    "terminated",
    "recovery-pending",
    "restricted",
    "grace",
    "refresh-due",
    "active",
]
"""In the order of `_TABLE`."""

Hardware = Literal["ours", "other", "unavailable", "unchecked"]
"""The last result of the TPM: `ours` it used the node's key; `other` the key belongs to another TPM; `unavailable` no
answer, or an error; `unchecked` not asked yet in this run. Without a TPM, of the fingerprint: `ours` it matches; `other`
too little of it is left; `unavailable` it cannot be read; `unchecked` not compared yet in this run."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence of a verdict.

    Attributes:
        holder: the generation to judge; None if the machine is not activated.
        stored: the verified statements of the generation.
        hardware: the last result of the TPM.
        time: trusted time now. Its `high` judges the lease. Its `wall` is the time of local programs.
        unconfirmed: the generation is not in force yet.
        proven: the TPM of the activation is known to be in this machine (`node.hwbind.presence`).
        in_software: the node has no TPM; `hardware` is then the result of its fingerprint.
        floors: the floor record, judged against the counter in the TPM.
    """

    holder: Holder | None
    stored: StoredEvidence
    hardware: Hardware
    time: Judged
    unconfirmed: bool = False
    proven: bool = False
    in_software: bool = False
    floors: FloorView = FloorView()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict about one generation.

    Attributes:
        state: the state of the licence.
        gate_open: licensed software may run.
        new_work: licensed software may begin new work.
        reason: why, as text.
        next: the next step for the user; may be empty.
        deadline: the next date at which the state changes without a new statement.
        valid_until: the end of this verdict by the wall clock, at most 60 s ahead.
        exit: the exit code of `cascadia status`.
        clock_suspect: the wall clock differs from trusted time, or is earlier than the lease's signed `issued_at`.
        hardware_failing: the TPM does not answer, or answers with an error. False for a node without a TPM.
        damaged: a text for each stored file that did not verify.
        superseded: the state is `revoked` because a later activation of the same chip replaced this generation.
        clone_suspected: the lease says that a copy of this machine runs too.
    """

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
    superseded: bool = False
    clone_suspected: bool = False


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
    "hardware-mismatch": _Row(
        False, False, Exit.HARDWARE_MISMATCH, "this machine's TPM is not the activated one, or was cleared"
    ),
    "stale": _Row(False, False, Exit.STALE, "there is no statement that can be trusted"),
    "terminated": _Row(False, False, Exit.TERMINATED, "the lease has terminated"),
    "recovery-pending": _Row(
        True,
        True,
        Exit.OK,
        "the machine runs on the grace lease of a recovery",
        "Ask the operator to approve the recovery, or run `cascadia recover` with a recovery code. The agent keeps "
        "asking the cloud by itself.",
    ),
    "restricted": _Row(True, False, Exit.OK, "the grace of the lease is over; no new work may begin", _ASKING),
    "grace": _Row(True, True, Exit.OK, "the lease has expired and is in its grace", _ASKING),
    "refresh-due": _Row(
        True, True, Exit.OK, "the lease is due for refresh", "Nothing to do; the agent refreshes the lease by itself."
    ),
    "active": _Row(True, True, Exit.OK, "the lease is current"),
}

_SUPERSEDED = _Row(
    False,
    False,
    Exit.REVOKED,
    "the same chip was activated again elsewhere, or in another state directory; that activation replaced this one",
    "If this machine is to run, activate it again: `cascadia activate FILE` with any open activation code of its "
    "tenant. This activation then replaces the other one. If you did not expect another activation, ask the operator "
    "whether the machine was copied.",
)
"""The row of a revocation with the reason `superseded`. The node is not revoked, so every open code admits it."""

_UNCOMPARED = "this machine is not compared with its enrolled fingerprint yet"
_UNREADABLE = "the fingerprint of this machine cannot be read"
_READABLE = "Run `cascadia status`: it names the serial numbers that the agent cannot read, and the cause."
_OTHER_MACHINE = _Row(
    False, False, Exit.HARDWARE_MISMATCH, "too little of the activated machine's fingerprint is left in this machine"
)
"""The row of a `hardware-mismatch` of a node without a TPM."""

_CLONED = _Row(True, True, Exit.CLONE, Exit.CLONE.text)
"""The row of a lease that names a suspected clone, while it is not terminated."""

STATES: tuple[LicenceState, ...] = tuple(_TABLE)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The licence of a generation at one instant. One answer to a local program is made from one snapshot."""

    holder: Holder
    hardware: Hardware
    lease: Lease | None
    verdict: Verdict
    offline_bound: datetime | None = None
    """The largest `terminate_at` of the leases on the disk and in memory, of every generation of this node."""
    floor: FloorStatus = NO_FLOOR
    """The floor record and its counter."""
    fingerprint: Judgement | None = None
    """The last comparison with the enrolled fingerprint, of a node without a TPM."""
    in_software: bool = False
    """Whether the node has no TPM."""
    time: Judged | None = None
    """Trusted time; None while no identity can be read."""
    notice: Notice | None = None
    """The notice that the licence is about to end; None if there is none."""


def current_lease(stored: StoredEvidence, holder: Holder | None) -> Lease | None:
    """The holder's current statement, if it is a lease; otherwise None."""
    verified = stored.statement
    if verified is None or holder is None or not isinstance(verified.statement, Lease):
        return None
    return verified.statement if holder.holds(verified.statement) else None


def current_revocation(stored: StoredEvidence, holder: Holder) -> Revocation | None:
    """The revocation that has ended the holder's generation; None if there is none.

    A revocation in `stored.later` has ended the node's higher generation, and with it this one.
    """
    for verified in (stored.tombstone, stored.statement):
        if verified is not None and isinstance(verified.statement, Revocation) and holder.holds(verified.statement):
            return verified.statement
    later = stored.later.statement if stored.later is not None else None
    return later if isinstance(later, Revocation) else None


def _suspension(evidence: Evidence, holder: Holder) -> Suspension | None:
    verified = evidence.stored.statement
    if verified is None or not isinstance(verified.statement, Suspension) or not holder.holds(verified.statement):
        return None
    return verified.statement


def _by_dates(lease: Lease, at: datetime) -> LicenceState:
    if at >= lease.terminate_at:
        return "terminated"
    if lease.recovery is not msgspec.UNSET:
        return "recovery-pending"
    if at >= lease.grace_until:
        return "restricted"
    if at >= lease.expires_at:
        return "grace"
    return "refresh-due" if at >= lease.refresh_after else "active"


def _judge(evidence: Evidence) -> tuple[LicenceState, str]:
    """The first state of the table whose condition holds, and a detail for its reason."""
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
    if stored.later is not None:
        return "stale", f"a later generation, {stored.later.statement.generation}, of this node was confirmed"
    # A tombstone that is not this holder's revocation is treated like a tombstone that does not verify.
    if stored.tombstone_doubtful or stored.tombstone is not None:
        return "stale", "a stored tombstone cannot be verified"
    if reason := _below_floor(evidence.floors, stored, holder):
        return "stale", reason
    lease = current_lease(stored, holder)
    if lease is None:
        return "stale", "the stored statement is damaged" if stored.damaged else "no statement is stored"
    state = _by_dates(lease, max(evidence.time.high, lease.issued_at))
    detail = f"final lease: {lease.final.reason}" if lease.final is not None else ""
    if lease.recovery is not msgspec.UNSET:
        detail = lease.recovery
    if lease.clone_suspected is not msgspec.UNSET and state in ("active", "refresh-due"):
        # A suspected machine runs in grace at the best. Its dates stay, so it is refreshed as any other.
        state = "grace"
    return state, detail


def _by_wall_clock_alone(lease: Lease, time: Judged) -> bool:
    """Whether the lease has terminated by a suspect wall clock only."""
    return time.suspect and max(time.least_high, lease.issued_at) < lease.terminate_at


def _below_floor(view: FloorView, stored: StoredEvidence, holder: Holder) -> str:
    """Why the floors forbid the stored statement; empty if they allow it."""
    if view.judged.state == "stale":
        return view.judged.reason
    if view.generation > holder.generation:
        return f"a later generation, {view.generation}, of this node was in force"
    if view.floor is not None and stored.statement is not None and position(stored.statement.statement) < view.floor:
        return "the stored statement is older than the floor record allows"
    return ""


def _deadline(lease: Lease, at: datetime) -> datetime | None:
    if lease.recovery is not msgspec.UNSET:
        return lease.terminate_at if lease.terminate_at > at else None
    dates = (lease.refresh_after, lease.expires_at, lease.grace_until, lease.terminate_at)
    return min((date for date in dates if date > at), default=None)


def judge(evidence: Evidence) -> Verdict:
    """The verdict at `evidence.time`. It never fails: every evidence has a verdict."""
    state, detail = _judge(evidence)
    superseded = state == "revoked" and detail == "superseded"
    row, time = _SUPERSEDED if superseded else _TABLE[state], evidence.time
    if state == "hardware-mismatch" and evidence.in_software:
        row = _OTHER_MACHINE
    suspected = _is_suspected(evidence)
    if suspected and state in ("recovery-pending", "grace", "restricted"):
        row = msgspec.structs.replace(_CLONED, new_work=row.new_work)
    lease = (
        current_lease(evidence.stored, evidence.holder)
        if state in ("terminated", "recovery-pending", "restricted", "grace", "refresh-due", "active")
        else None
    )
    reason, code = f"{row.reason} ({detail})" if detail else row.reason, row.exit
    gate_open, life, deadline, clock_suspect = row.gate_open, LICENSE_ANSWER_LIFE, None, time.suspect
    if lease is not None:
        at = max(time.high, lease.issued_at)
        deadline = _deadline(lease, at)
        clock_suspect = time.suspect or time.wall < lease.issued_at - CLOCK_SKEW
        life = min(life, deadline - at) if deadline else life
        if state == "terminated" and _by_wall_clock_alone(lease, time):
            reason, code = f"{row.reason} by this machine's clock, which no signed time confirms", Exit.CLOCK
    failing = evidence.hardware == "unavailable"
    next_step = row.next
    unreadable_next = _READABLE if evidence.in_software else Exit.TPM.next
    if gate_open and lease is not None:
        if evidence.hardware != "ours" and not (failing and evidence.proven):
            unproved = _UNCOMPARED if evidence.in_software else "the TPM has not proved that it holds the node's key"
            gate_open, reason, code, next_step = False, unproved, Exit.TPM, unreadable_next
        elif failing and max(time.high, lease.issued_at) >= lease.refresh_after:
            cause = _UNREADABLE if evidence.in_software else "the TPM cannot use the node's key"
            reason, code, next_step = f"{reason}, and {cause}", Exit.TPM, unreadable_next
    return Verdict(
        state=state,
        gate_open=gate_open,
        new_work=row.new_work and gate_open,
        reason=reason,
        next=next_step or code.next,
        deadline=deadline,
        valid_until=time.wall + life,
        exit=code,
        clock_suspect=clock_suspect,
        hardware_failing=failing and not evidence.in_software,
        damaged=(*evidence.stored.damaged, *evidence.floors.damaged),
        superseded=superseded,
        clone_suspected=suspected,
    )


def _is_suspected(evidence: Evidence) -> bool:
    """Whether the current statement is a lease that names a suspected clone."""
    lease = current_lease(evidence.stored, evidence.holder)
    return lease is not None and lease.clone_suspected is not msgspec.UNSET
