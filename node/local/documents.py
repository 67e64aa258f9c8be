"""Pure functions: the documents of the local socket (licence, entitlement, status), made of one snapshot each.

The documents are versioned (`format`): fields are added, never renamed.
"""

from datetime import datetime

import msgspec

from node.config import AGENT_VERSION
from node.licensing.verdict import Snapshot, Verdict, entitled
from protocol.signed.statements import Lease

FORMAT = 1


class LicenseDocument(msgspec.Struct, frozen=True):
    """`GET /v1/license`. Software that is licensed keeps its last answer until `valid_until`, and no longer."""

    format: int
    state: str
    gate: str
    new_work: bool
    reason: str
    next: str
    valid_until: datetime
    exit_code: int
    flags: tuple[str, ...]
    tenant: str
    node: str
    generation: int
    lease: Lease | None


class EntitlementDocument(msgspec.Struct, frozen=True):
    """`GET /v1/entitlements/NAME`; the HTTP status is 200 when granted and 403 when not."""

    format: int
    name: str
    granted: bool
    state: str
    reason: str
    valid_until: datetime


class StatusDocument(msgspec.Struct, frozen=True):
    """`GET /v1/status`. `offline_bound_at`: until when a copy of this state could run without the cloud."""

    format: int
    version: str
    mode: str
    license: LicenseDocument
    hardware: str
    agent_running: bool
    last_contact_at: datetime | None
    failures: int
    offline_bound_at: datetime | None
    limits: str
    damaged: tuple[str, ...] = ()
    """A text for each licence file that is there and does not verify."""


LIMITS = (
    "A revocation or suspension takes effect when it reaches this machine. If someone restores an old copy of the state "
    "directory and keeps the machine offline, the old licence stays usable until the date recorded in that copy "
    "(offline_bound_at); longer if the clock is set back."
)


def _flags(verdict: Verdict) -> tuple[str, ...]:
    flags = (
        ("clock-suspect", verdict.clock_suspect),
        ("tpm-failing", verdict.hardware_failing),
        ("state-damaged", bool(verdict.damaged)),
    )
    return tuple(flag for flag, holds in flags if holds)


def license_document(snapshot: Snapshot) -> LicenseDocument:
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
        lease=snapshot.lease,
    )


def entitlement_document(snapshot: Snapshot, name: str) -> EntitlementDocument:
    verdict = snapshot.verdict
    granted = entitled(verdict, snapshot.lease, name)
    reason = verdict.reason if granted or not verdict.gate_open else f"the licence does not include {name!r}"
    return EntitlementDocument(
        format=FORMAT,
        name=name,
        granted=granted,
        state=verdict.state,
        reason=reason,
        valid_until=verdict.valid_until,
    )


def status_document(
    snapshot: Snapshot, mode: str, *, running: bool, last_contact_at: datetime | None, failures: int
) -> StatusDocument:
    lease = snapshot.lease
    return StatusDocument(
        format=FORMAT,
        version=AGENT_VERSION,
        mode=mode,
        license=license_document(snapshot),
        hardware=snapshot.hardware,
        agent_running=running,
        last_contact_at=last_contact_at,
        failures=failures,
        offline_bound_at=lease.terminate_at if lease else None,
        limits=LIMITS,
        damaged=snapshot.verdict.damaged,
    )
