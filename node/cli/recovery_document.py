"""Pure functions: the document of `cascadia recover`, its text, and the sentence for the phone.

The document has a version (`format`). Fields are added and never renamed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from node.errors import NodeError
from node.licensing.situation import Chip, Directory, Found, NodeKey, Plan, Way
from node.licensing.verdict import Snapshot
from node.licensing.waiting import awaited
from node.local.documents import LicenseDocument, license_document
from node.text import shown
from protocol.fingerprint import Judgement
from protocol.messages.recovery import AwaitedRecovery
from protocol.signed.statements import Lease

FORMAT = 1

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DIRECTORIES: dict[Directory, str] = {
    "present": "present",
    "damaged": "damaged",
    "lost": "lost: it names no node",
}
_CHIPS: dict[Chip, str] = {
    "same": "the TPM of the activation",
    "cleared": "the TPM of the activation, which was cleared",
    "other": "not the TPM of the activation",
    "silent": "it does not answer",
    "none": "this node has none",
    "unknown": "nothing is recorded to compare it with",
}
_KEYS: dict[NodeKey, str] = {
    "works": "works",
    "refused": "cannot be used on this machine any more",
    "unknown": "was not used",
}


class FoundDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine has found about itself. The fields are those of `node.licensing.situation.Found`."""

    directory: Directory
    damage: str
    tenant: str
    node: str
    generation: int
    in_software: bool
    tpm: Chip
    node_key: NodeKey
    certificate_until: datetime | None
    certificate_expired: bool
    state: str
    reason: str
    same: Judgement | None
    problem: str
    case: str
    last_ran_at: datetime | None


RECOVERED = ("recovered", "recovered_on_grace")
"""Outcomes with a new generation."""


class RecoverDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of `cascadia recover`.

    Attributes:
        outcome: stable code: `not_needed`, `renewed`, `recovered`, `recovered_on_grace`, `recovery_pending`, `revoked`,
            `superseded`, or the code of the error.
        exit_code: the exit code of the command.
        sentence: the outcome in one sentence, which can be read out on the phone.
        next: the next step; may be empty.
        way: what ends the fault.
        needs: what the machine needs for that.
        found: what the machine has found; None if the agent owns the state.
        case: the recovery case that waits; None without one.
        license: the licence; None without one.
    """

    format: int = FORMAT
    outcome: str
    exit_code: int
    sentence: str
    next: str
    way: Way
    needs: str
    found: FoundDocument | None = None
    case: AwaitedRecovery | None = None
    license: LicenseDocument | None = None


def when(at: datetime) -> str:
    """A time for people: `2 December 2026 14:00 UTC`."""
    at = at.astimezone(UTC)
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year} {at:%H:%M} UTC"


def found_document(found: Found) -> FoundDocument:
    """The document of a finding."""
    return FoundDocument(
        directory=found.directory,
        damage=found.damage,
        tenant=found.tenant,
        node=found.node,
        generation=found.generation,
        in_software=found.in_software,
        tpm=found.chip,
        node_key=found.node_key,
        certificate_until=found.certificate_until,
        certificate_expired=found.certificate_expired,
        state=found.verdict.state if found.verdict else "",
        reason=found.verdict.reason if found.verdict else "",
        same=found.same,
        problem=found.fault.text if found.fault else "",
        case=found.case or (found.waits.case if found.waits else ""),
        last_ran_at=found.last_ran_at,
    )


def human_found(found: Found, plan: Plan) -> str:
    """What was found, what the machine needs, and what the command does next, one line each."""
    return "\n".join(f"{name:<16} {shown(text)}" for name, text in _rows(found, plan) if text)


def _rows(found: Found, plan: Plan) -> Iterator[tuple[str, str]]:
    yield "state directory", _DIRECTORIES[found.directory] + (f": {found.damage}" if found.damage else "")
    yield "node", found.node + (f", generation {found.generation}" if found.generation else "")
    yield "TPM", _CHIPS[found.chip]
    yield "node key", _KEYS[found.node_key]
    if found.certificate_until is not None:
        yield (
            "certificate",
            f"{'expired' if found.certificate_expired else 'valid until'} {when(found.certificate_until)}",
        )
    if found.verdict is not None:
        yield "licence", f"{found.verdict.state}: {found.verdict.reason}"
    if found.last_ran_at is not None:
        yield "last ran", when(found.last_ran_at)
    if found.same is not None:
        yield "same machine", f"{found.same.result}: {found.same.reason}"
        for kind in found.same.kinds:
            yield "", f"{kind.kind} ({kind.weight}): {kind.result}"
    yield "problem", found.fault.text if found.fault else ""
    if found.waits is not None:
        yield "recovery", f"{found.waits.case} waits for {awaited(found.waits)} until {when(found.waits.decide_by)}"
    yield "needs", plan.needs
    yield "next", plan.next


def human_recover(document: dict[str, Any]) -> str:
    """The end of the command as text: the next step, and the sentence as the last line."""
    step = f"{'next':<16} {shown(document['next'])}\n\n" if document["next"] else ""
    return f"{step}{shown(document['sentence'], 1000)}"


def _named(node: str) -> str:
    return f"node {node}" if node else "this machine"


def waits_sentence(found: Found, waits: AwaitedRecovery) -> str:
    """The sentence of a recovery that waits."""
    return f"Recovery {waits.case} of {_named(found.node)} waits for {awaited(waits)} until {when(waits.decide_by)}."


def _until(lease: Lease | None) -> str:
    return f", licensed until {when(lease.terminate_at)}" if lease is not None else ""


def licence_sentence(snapshot: Snapshot, way: Way) -> str:
    """The sentence of a licence that was found, renewed or recovered."""
    node, lease, verdict = snapshot.holder.node, snapshot.lease, snapshot.verdict
    recovered = way in ("recovery", "wait")
    again = " again" if recovered else ""
    if not verdict.gate_open:
        return f"This machine is node {node}{again}, and its gate is closed: {verdict.reason}."
    if verdict.state == "recovery-pending" and lease is not None:
        return (
            f"This machine is node {node}{again} until {when(lease.terminate_at)}; the recovery {lease.recovery} still "
            "needs an operator's approval or a recovery code."
        )
    tail = "" if recovered else ("; it needs no recovery" if way == "nothing" else "; it needed no recovery")
    return f"This machine is node {node}{again}{_until(lease)}{tail}."


def ended_sentence(found: Found, way: Way) -> str:
    """The sentence of a machine for which the command does nothing."""
    node = f"Node {found.node}" if found.node else "This machine's node"
    if way == "revoked":
        return f"{node} is revoked, and a recovery does not undo a revocation."
    if way == "superseded":
        return f"{node} was activated again elsewhere, and a recovery does not undo that."
    text = found.fault.text if found.fault else "this machine has a fault"
    return f"{node} may be intact, and needs no recovery: {text}."


def failed_sentence(found: Found, way: Way, error: NodeError, allowed_at: datetime | None) -> str:
    """The sentence of a recovery or a renewal that failed."""
    what = "renewal" if way == "renewal" else "recovery"
    later = f"; it may be tried again from {when(allowed_at)}" if allowed_at is not None else ""
    return f"The {what} of {_named(found.node)} did not succeed: {error.text.removesuffix('.')}{later}."


def licence_outcome(snapshot: Snapshot, found: Found, plan: Plan) -> RecoverDocument:
    """The document of a machine that has its licence: it was found, renewed or recovered."""
    verdict = snapshot.verdict
    recovered = plan.way in ("recovery", "wait")
    on_grace = recovered and verdict.state == "recovery-pending"
    outcome = "not_needed" if plan.way == "nothing" else "renewed"
    if recovered:
        outcome = "recovered_on_grace" if on_grace else "recovered"
    return RecoverDocument(
        outcome=outcome,
        exit_code=int(verdict.exit),
        sentence=licence_sentence(snapshot, plan.way),
        next=verdict.next,
        way=plan.way,
        needs=plan.needs,
        found=found_document(found),
        license=license_document(snapshot),
    )


def ended(found: Found, plan: Plan, exit_code: int) -> RecoverDocument:
    """The document of a machine for which the command does nothing."""
    return RecoverDocument(
        outcome=found.fault.code if found.fault and plan.way in ("tpm", "disk") else plan.way,
        exit_code=exit_code,
        sentence=ended_sentence(found, plan.way),
        next=plan.next,
        way=plan.way,
        needs=plan.needs,
        found=found_document(found),
    )


def waiting(found: Found, plan: Plan, waits: AwaitedRecovery, error: NodeError) -> RecoverDocument:
    """The document of a recovery that waits, and whose person does not."""
    return RecoverDocument(
        outcome=error.code,
        exit_code=int(error.exit),
        sentence=waits_sentence(found, waits),
        next=error.next,
        way="wait",
        needs=plan.needs,
        found=found_document(found),
        case=waits,
    )


def failed(found: Found, plan: Plan, error: NodeError, allowed_at: datetime | None = None) -> RecoverDocument:
    """The document of a recovery or a renewal that failed."""
    return RecoverDocument(
        outcome=error.code,
        exit_code=int(error.exit),
        sentence=failed_sentence(found, plan.way, error, allowed_at),
        next=error.next,
        way=plan.way,
        needs=plan.needs,
        found=found_document(found),
    )
