"""Pure functions: the documents of the local socket (licence, entitlement, status), each made of one snapshot.

The documents have a version (`format`). Fields are added and never renamed. The text below a field is its description
in the API document.
"""

from datetime import datetime

import msgspec

from node.conditions import Condition
from node.config import AGENT_VERSION
from node.exchanges.failure import Failure
from node.licensing.entitlements import Why, judge_entitlement
from node.licensing.floors import NO_FLOOR, FloorStatus
from node.licensing.trusted_time import Judged
from node.licensing.verdict import Snapshot, Verdict
from protocol.fingerprint import Judgement
from protocol.ids import AirgapRequestId, NodeId, TenantId
from protocol.signed.lease import LeaseV1
from protocol.signed.statements import Entitlement, Lease, Tier

FORMAT = 1


class LeaseDocument(msgspec.Struct, frozen=True):
    """The lease. The dates are those that Fabric signed."""

    trust_domain: str
    """Trust domain of the installation."""
    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: int
    """Generation of the node."""
    epoch: int
    """First number of the order of statements. `cascade init` sets it for the installation."""
    seq: int
    """Second number of the order of statements. It grows with each statement of the node."""
    issued_at: datetime
    """Time of the signature."""
    tier: Tier
    """Assurance tier that the hardware evidence reached."""
    profile: str
    """Profile of the node."""
    entitlements: tuple[str, ...]
    """Names of the entitlements, also of those whose dates do not grant them now."""
    not_before: datetime
    """Start of the lease."""
    refresh_after: datetime
    """The node refreshes the lease from this date on."""
    expires_at: datetime
    """The lease expires, and its grace begins."""
    grace_until: datetime
    """The grace ends. From this date on no new work starts."""
    terminate_at: datetime
    """The lease terminates, and the gate closes."""
    notify_at: tuple[datetime, ...] = ()
    """Dates at which the owner of the machine is notified of the expiry."""
    renew_device_after: datetime | msgspec.UnsetType = msgspec.UNSET
    """A device certificate made before this date is renewed once the date has come."""
    lease_version: int = 1
    """Version of the lease. Version 2 is bound to the node key and the chip, and can have terms."""
    entitlement_terms: tuple[Entitlement, ...] = ()
    """The entitlements with limit, dates or attributes."""
    final_reason: str = ""
    """Why no later lease follows, if the lease is final. Empty otherwise."""
    recovery: str = ""
    """Id of the recovery case, if the lease is the grace lease of a recovery. Empty otherwise."""


class LicenseDocument(msgspec.Struct, frozen=True):
    """The licence of this machine. Licensed software may use an answer until `valid_until`, and no longer."""

    format: int
    """Version of the document."""
    state: str
    """State of the licence: `active`, `refresh-due`, `grace`, `restricted`, `recovery-pending`, `terminated`, `suspended`,
    `revoked`, `pending`, `stale`, `hardware-mismatch` or `unactivated`."""
    gate: str
    """`open` if licensed software may run, else `closed`."""
    new_work: bool
    """Whether licensed software may start new work."""
    reason: str
    """Reason for the state, for people."""
    next: str
    """Next step, for people. Empty if there is none."""
    valid_until: datetime
    """Time until which this answer may be used."""
    exit_code: int
    """Exit code of `cascadia status` in this state."""
    flags: tuple[str, ...]
    """`clock-suspect`: the clock is behind trusted time, or far ahead. `tpm-failing`: the TPM does not answer. `state-damaged`: a
    licence file does not verify. `superseded`: the state is `revoked` because a later activation of the same chip
    replaced this one; every open activation code activates the machine again. `clone-suspected`: the cloud suspects that
    a copy of this machine runs too; an operator decides which one is kept."""
    tenant: str
    """Id of the tenant."""
    node: str
    """Id of the node."""
    generation: int
    """Generation of the node."""
    lease: LeaseDocument | None
    """The lease, if the current statement is one."""
    notice: str = ""
    """Notice to the owner of the machine that the licence is about to end, for people. Empty if there is none."""


class EntitlementDocument(msgspec.Struct, frozen=True):
    """Whether the licence grants an entitlement now."""

    format: int
    """Version of the document."""
    name: str
    """Name of the entitlement."""
    granted: bool
    """Whether the gate is open and the lease grants the entitlement."""
    state: str
    """State of the licence, as in the licence document."""
    reason: str
    """Reason, for people."""
    valid_until: datetime
    """Time until which this answer may be used."""
    why: Why = "not-included"
    """`granted`; `gate-closed`: the licence allows nothing now; `not-included`: the lease has no entitlement of this name;
    `not-yet`: the entitlement begins later; `ended`: it has ended."""
    limit: int | None = None
    """Largest number that the software may use. The software counts. Null if there is no limit, or nothing is granted."""
    not_before: datetime | None = None
    """Time at which the entitlement begins. Null if it has no such date."""
    until: datetime | None = None
    """Time at which the entitlement ends. Null if it ends with the licence."""
    attributes: dict[str, str] = {}
    """Attributes of the entitlement, by name. Empty if nothing is granted."""


class ChangesDocument(msgspec.Struct, frozen=True):
    """The position of the changes of the licence."""

    format: int
    """Version of the document."""
    cursor: str
    """The present position, for the next request. Its text has no meaning."""
    changed: bool
    """Whether the licence or an entitlement may have changed since the position of the request. True if that position is
    unknown, as after a restart of the agent."""


class TimeDocument(msgspec.Struct, frozen=True):
    """Trusted time. The agent judges by it, because the wall clock may be wrong."""

    high_at: datetime
    """Time at which the lease is judged."""
    low_at: datetime
    """Time that has surely passed. Certificates must not have ended at it."""
    wall_at: datetime
    """The wall clock of this machine."""
    source: str
    """What `high_at` follows: `signed` (a time that the cloud signed since the machine booted), `wall-clock` (the clock
    at the boot), or `floor` (the latest signed time and the time with power since)."""
    suspect: bool
    """Whether the wall clock is behind trusted time, or far ahead of it."""


class RequestDocument(msgspec.Struct, frozen=True):
    """The outstanding request for an answer without a network."""

    format: int
    """Version of the document."""
    request: AirgapRequestId
    """Id of the request."""
    kind: str
    """`activate`, `refresh` or `recover`."""
    made_at: datetime
    """Time at which it was made, by the machine's trusted time."""
    expires_at: datetime
    """Time from which the machine makes another request."""
    file: str
    """The request as it is carried to the operators: a JSON document. An activation code in it is a secret."""


class LeftDocument(msgspec.Struct, frozen=True):
    """A floor counter that is still in the TPM."""

    index: str
    """NV index of the counter. Empty if it is not known."""
    reason: str
    """Why it is still there."""


class DeactivationDocument(msgspec.Struct, frozen=True):
    """A deactivation: which node this machine was, and what became of its seat."""

    format: int
    """Version of the document."""
    node: str
    """Id of the node. Empty if the machine's files could not be read."""
    deactivated_at: datetime
    """Time of the deactivation, by the wall clock."""
    seat: str
    """`free`: the cloud has released the node. `revoked`: an operator has revoked the node, and its seat is free once its
    last lease has terminated. `elsewhere`: the node goes on in a later activation, or on another machine. `none`: the
    activation had not ended. `taken`: the seat is still taken."""
    left: tuple[LeftDocument, ...]
    """Floor counters that are still in the TPM."""
    next: str
    """Next step, for people. Empty if nothing is left to do."""
    exit_code: int
    """Exit code of `cascadia deactivate`."""


class StatusDocument(msgspec.Struct, frozen=True):
    """State of the agent, with the licence."""

    format: int
    """Version of the document."""
    version: str
    """Version of the agent."""
    mode: str
    """`production` or `development`."""
    license: LicenseDocument
    """The licence."""
    hardware: str
    """Last answer of the TPM: `ours`, `other` (another TPM), `unavailable`, or `unchecked`. Without a TPM, the last result
    of the fingerprint."""
    agent_running: bool
    """Whether the agent runs. False if the command line made the document itself."""
    last_contact_at: datetime | None
    """Time of the last successful contact with the cloud since the agent started."""
    failures: int
    """Number of contacts without an answer since the last one with an answer."""
    offline_bound_at: datetime | None
    """Time until which the present state directory, or a copy of it, could run without the cloud: the latest
    `terminate_at` of the leases in memory and on the disk, of every generation."""
    limits: str
    """Limits of offline licences, for people."""
    damaged: tuple[str, ...] = ()
    """One text for each licence file that does not verify."""
    conditions: tuple[Condition, ...] = ()
    """What is wrong now without stopping the agent, the oldest first."""
    last_failure: Failure | None = None
    """The last contact with the cloud that failed, also after a later contact that succeeded. The agent keeps it in
    memory, so it is empty after a start and without a running agent."""
    fingerprint: Judgement | None = None
    """The last comparison of the machine with its enrolled fingerprint. Null for a node with a TPM, which is known by its
    TPM."""
    time: TimeDocument | None = None
    """Trusted time; null while no identity can be read."""
    floor: FloorStatus = NO_FLOOR
    """The floor record against restored disks, and the counter in the TPM that versions it."""


LIMITS = (
    "A revocation or suspension takes effect when it reaches this machine. The floor record finds out a restored copy of "
    "the state directory. Without a hardware floor, or if the TPM's own state is restored too, the old licence stays "
    "usable offline until the date recorded in that copy (offline_bound_at, the latest end of all leases on the disk). "
    "A clock that is held back adds the time without power or asleep, and at most 28 hours."
)

SOFTWARE_LIMITS = (
    "This machine has no TPM, so it has no hardware floor: nothing but the dates of the lease contradicts an old copy. A "
    "copy on another machine runs until offline_bound_at if that machine hides its serial numbers (T-94), and as long as "
    "root reports the serial numbers of this machine (T-95)."
)


def _flags(verdict: Verdict) -> tuple[str, ...]:
    flags = (
        ("clock-suspect", verdict.clock_suspect),
        ("tpm-failing", verdict.hardware_failing),
        ("state-damaged", bool(verdict.damaged)),
        ("superseded", verdict.superseded),
        ("clone-suspected", verdict.clone_suspected),
    )
    return tuple(flag for flag, holds in flags if holds)


def lease_document(lease: Lease) -> LeaseDocument:
    """The document of a lease of either version."""
    fields = {name: getattr(lease, name) for name in LeaseV1.__struct_fields__}
    return LeaseDocument(
        **fields | {"entitlements": lease.names},
        lease_version=lease.version,
        entitlement_terms=tuple(grant for grant in lease.entitlements if isinstance(grant, Entitlement)),
        final_reason=lease.final.reason if lease.final is not None else "",
        recovery=lease.recovery or "",
    )


def _time_document(time: Judged | None) -> TimeDocument | None:
    if time is None:
        return None
    return TimeDocument(high_at=time.high, low_at=time.low, wall_at=time.wall, source=time.source, suspect=time.suspect)


def license_document(snapshot: Snapshot) -> LicenseDocument:
    """The licence document of a snapshot."""
    verdict, holder = snapshot.verdict, snapshot.holder
    return LicenseDocument(
        format=FORMAT,
        state=verdict.state,
        gate="open" if verdict.gate_open else "closed",
        new_work=verdict.new_work,
        reason=verdict.reason,
        next=verdict.next,
        valid_until=verdict.valid_until,
        exit_code=int(verdict.exit),
        flags=_flags(verdict),
        tenant=holder.tenant,
        node=holder.node,
        generation=holder.generation,
        lease=None if snapshot.lease is None else lease_document(snapshot.lease),
        notice="" if snapshot.notice is None else snapshot.notice.text,
    )


def entitlement_document(snapshot: Snapshot, name: str) -> EntitlementDocument:
    """The document of one entitlement. `name` is the name as the lease has it."""
    verdict = judge_entitlement(snapshot, name)
    terms = verdict.terms
    return EntitlementDocument(
        format=FORMAT,
        name=name,
        granted=verdict.granted,
        state=snapshot.verdict.state,
        reason=verdict.reason,
        valid_until=verdict.valid_until,
        why=verdict.why,
        limit=terms.limit if terms is not None and verdict.granted else None,
        not_before=terms.not_before if terms is not None else None,
        until=terms.until if terms is not None else None,
        attributes=terms.attributes if terms is not None and verdict.granted else {},
    )


def status_document(
    snapshot: Snapshot,
    mode: str,
    *,
    running: bool,
    last_contact_at: datetime | None,
    failures: int,
    conditions: tuple[Condition, ...] = (),
    last_failure: Failure | None = None,
) -> StatusDocument:
    """The status document. `failures` counts the contacts that failed since `last_contact_at`."""
    return StatusDocument(
        format=FORMAT,
        version=AGENT_VERSION,
        mode=mode,
        license=license_document(snapshot),
        hardware=snapshot.hardware,
        agent_running=running,
        last_contact_at=last_contact_at,
        failures=failures,
        offline_bound_at=snapshot.offline_bound,
        limits=f"{LIMITS} {SOFTWARE_LIMITS}" if snapshot.in_software else LIMITS,
        damaged=snapshot.verdict.damaged,
        conditions=conditions,
        last_failure=last_failure,
        time=_time_document(snapshot.time),
        fingerprint=snapshot.fingerprint,
        floor=snapshot.floor,
    )


def absent_status(snapshot: Snapshot, mode: str, conditions: tuple[Condition, ...]) -> StatusDocument:
    """The status document that a command makes without a running agent."""
    return status_document(snapshot, mode, running=False, last_contact_at=None, failures=0, conditions=conditions)
