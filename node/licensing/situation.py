"""Pure functions: what a machine has found about itself, and which way back it needs.

A recovery gives a machine its own node back after a part of it was lost. Most faults are no recovery: a certificate that
has expired, a TPM that does not answer, a wrong clock. A renewal or the next contact ends them. So `plan` chooses a
recovery only if it is certain that the node key cannot be used on this machine, or that the state is lost.
"""

from datetime import datetime
from typing import Literal

import msgspec

from node.licensing.verdict import Verdict
from protocol.fingerprint import Judgement
from protocol.messages.recovery import AwaitedRecovery, Situation

Directory = Literal["present", "damaged", "lost"]
"""The state directory: `present` names a node; `damaged` has files of a node that cannot be used; `lost` has none."""
Chip = Literal["same", "cleared", "other", "silent", "none", "unknown"]
"""The TPM: `same` it uses the node key; `cleared` it shows the recorded endorsement key and refuses the node key; `other`
it is another TPM; `silent` it does not answer; `none` the node has no TPM; `unknown` nothing is recorded to compare."""
NodeKey = Literal["works", "refused", "unknown"]
"""The node key: `works`; `refused` it is of another TPM, or of this one before it was cleared; `unknown` it was not used."""
Way = Literal["nothing", "renewal", "recovery", "wait", "revoked", "superseded", "tpm", "disk"]
"""What ends the fault: `nothing` there is none; `renewal` a contact with the cloud; `recovery` a recovery case; `wait` the
decision about a recovery that was sent already; `revoked` and `superseded` an activation code; `tpm` a TPM that answers;
`disk` a state directory that can be read."""


class Fault(msgspec.Struct, frozen=True):
    """A fault of this machine that is no recovery, as an error reports it."""

    code: str
    text: str
    next: str
    exit_code: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine has found.

    Attributes:
        directory: the state directory.
        damage: why the files cannot be used; empty unless `damaged`.
        tenant: the tenant in the directory; may be empty.
        node: the node in the directory, or the id that a person gave; may be empty.
        generation: the newest generation in the directory; 0 without one.
        in_software: the node has no TPM.
        chip: the TPM.
        node_key: the node key.
        certificate_until: the end of the device certificate; None without one.
        certificate_expired: whether that end has passed.
        verdict: the verdict of the licence; None without a licence.
        same: the comparison with the enrolled fingerprint; None without a lease that has one.
        fault: the fault of the TPM or the disk; None without one.
        waits: the recovery case that was opened before, and waits; None without one.
        case: the recovery case of the grace lease in force; may be empty.
        has_trust: the published trust is stored.
        last_ran_at: trusted time at which the machine last ran; None if nothing tells it.
        statement: the last stored statement that verifies, as a JWS; may be empty.
    """

    directory: Directory
    damage: str = ""
    tenant: str = ""
    node: str = ""
    generation: int = 0
    in_software: bool = False
    chip: Chip = "unknown"
    node_key: NodeKey = "unknown"
    certificate_until: datetime | None = None
    certificate_expired: bool = False
    verdict: Verdict | None = None
    same: Judgement | None = None
    fault: Fault | None = None
    waits: AwaitedRecovery | None = None
    case: str = ""
    has_trust: bool = False
    last_ran_at: datetime | None = None
    statement: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The way back. `situation` is what a recovery reports to the cloud; None on every other way."""

    way: Way
    needs: str
    next: str
    situation: Situation | None = None


_WAYS: dict[Way, tuple[str, str]] = {
    "nothing": ("nothing", "The machine works. The agent keeps its licence current."),
    "renewal": ("an answer of the cloud", "This is no recovery. The command asks the cloud now."),
    "recovery": (
        "a recovery code, or an operator's approval",
        "The command proves to the cloud which machine this is. A recovery code or an operator then decides.",
    ),
    "wait": (
        "the decision about the recovery that was sent",
        "The command sends the stored proof again, and goes on once the recovery is approved.",
    ),
    "revoked": (
        "an activation code that readmits this machine",
        (
            "A recovery does not undo a revocation. Ask the operator why the node is revoked. If it is to run again, run "
            "`cascadia activate FILE` with an activation code that readmits it."
        ),
    ),
    "superseded": (
        "any open activation code of the tenant",
        (
            "The same node was activated again elsewhere. A recovery does not undo that. If this machine is to run, run "
            "`cascadia activate FILE` with any open activation code of its tenant."
        ),
    ),
    "tpm": ("a TPM that answers", "This is no recovery: the node may be intact."),
    "disk": ("a state directory that can be read", "This is no recovery: the node may be intact."),
}


def plan(found: Found, *, has_code: bool = False) -> Plan:
    """The way back from what was found. `has_code`: a person gives a recovery code. It never fails."""
    way, situation = _way(found, has_code)
    needs, step = _WAYS[way]
    if found.fault is not None and way in ("tpm", "disk"):
        step = f"{step} {found.fault.next}"
    return Plan(way=way, needs=needs, next=step, situation=situation)


def _way(found: Found, has_code: bool) -> tuple[Way, Situation | None]:
    way, situation = _without_waits(found, has_code)
    if way == "recovery" and found.waits is not None and not has_code:
        return "wait", situation
    return way, situation


def _without_waits(found: Found, has_code: bool) -> tuple[Way, Situation | None]:
    verdict = found.verdict
    if verdict is not None and verdict.state == "revoked":
        return ("superseded" if verdict.superseded else "revoked"), None
    if found.directory == "lost":
        return "recovery", "reinstalled"
    if found.fault is not None:
        return ("tpm" if found.chip == "silent" else "disk"), None
    if found.chip == "cleared":
        return "recovery", "tpm-cleared"
    if found.chip == "other" or (verdict is not None and verdict.state == "hardware-mismatch"):
        return "recovery", "hardware-replaced"
    if found.directory == "damaged" or verdict is None:
        return "recovery", "reinstalled"
    if found.case and has_code:
        # The machine runs on a grace lease. Its code approves the recovery that the lease names.
        return "recovery", "reinstalled"
    if verdict.state == "active" and not (found.certificate_expired or verdict.clock_suspect or verdict.damaged):
        return "nothing", None
    return "renewal", None
