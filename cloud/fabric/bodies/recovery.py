"""Messages: recovery cases in the operators' API of Fabric. The rules are those of `cloud.fabric.schemas`."""

from datetime import datetime
from typing import Literal

import msgspec

from protocol.ids import NodeId, RecoveryId, TenantId
from protocol.messages.recovery import CaseState, Needs, Situation
from protocol.signed.statements import Tier


class RecoveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant lets happen in a recovery without a person."""

    grace_quota: int = 0
    """Number of grace leases that the tenant's nodes get without a person in one period."""
    period_days: int = 90
    """Length of the period, in days."""
    grace_hours: int = 72
    """Longest life of a grace lease, in hours."""
    silence_minutes: int = 120
    """Minutes in which the node must make no contact before another machine gets a grace lease. 0: it gets it at once."""
    repair_quota: int = 1
    """Number of automatic repairs of one node, restored from a backup, in one period."""
    code_delay_hours: int = 24
    """Hours until a re-issued recovery code is accepted."""
    case_days: int = 14
    """Days in which a case must be decided."""


class RecoveryEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof shows about a machine that asks for its node back."""

    same_chip: bool
    """Whether the TPM is that of the node, or the machine without a TPM has signed with the key in force."""
    fingerprint: Literal["match", "mismatch", "inconclusive"]
    """Whether enough of the enrolled fingerprint is there. The fingerprint is the machine's own report."""
    matched: dict[str, int]
    """Kinds of components that are the same, with their weights."""
    changed: dict[str, int]
    """Kinds of components that are changed, missing or unreadable, with their weights."""
    statement: bool
    """Whether the machine presented a statement that this Fabric signed for the node."""
    last_seen_at: datetime | None
    """Time of the cloud's last contact with the node. Null before the first."""
    last_ran_at: datetime | None
    """Time at which the machine last ran, by its own report. Null if it reports none."""
    tier: Tier
    """Assurance tier that the evidence of the machine reaches."""
    address: str
    """Address that the proof came from."""
    agent_version: str
    """Version of the machine's agent."""
    former_chip: bool = False
    """Whether the TPM was that of the node, and an earlier recovery replaced it."""


class RecoveryCase(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery case: a machine asks for its node back."""

    id: RecoveryId
    """Id of the case."""
    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Node that the machine asks for."""
    situation: Situation
    """What has happened, as Fabric judges it by the proof. `reinstalled`: the chip is that of the node. `tpm-cleared`: the
    chip is that of the node, and its keys are lost. `hardware-replaced`: the chip or the machine is another one."""
    state: CaseState
    """State of the case. `open`: it goes on without a person. `eligible`: the machine has or may get a grace lease, and
    must still be approved. `needs_operator`: it waits. `refused`. `approved`: the machine has not confirmed yet.
    `code_issued`: an operator issued a recovery code for the case. `consumed`: the node is recovered. `lapsed`."""
    needs: Needs
    """What an undecided case waits for."""
    evidence: RecoveryEvidence
    """What the last proof of the machine showed."""
    old_generation: int
    """Generation of the node at the time of the proof."""
    generation: int
    """Generation that the recovery made. 0 before."""
    overlap_until: datetime | None
    """Time until which the old generation may run offline, although it is closed. Null if it never had a lease."""
    opened_at: datetime
    """Time of the first proof."""
    decide_by: datetime
    """Time at which the case ends without a decision, or without a confirmation."""
    next_allowed_at: datetime | None
    """Time from which a refused machine may ask again. Null if no rule sets a time."""
    decided_at: datetime | None
    """Time of the decision. Null before."""
    decided_by: str
    """Id of the deciding operator's token. Empty before."""
    reason: str
    """Reason of the decision, or of the present state."""
    code: str
    """Recovery code that was used. Empty without one."""
    grace: bool
    """Whether the machine got a grace lease."""
    grace_until: datetime | None
    """End of the grace lease. Null without one."""
    silent_until: datetime | None = None
    """Time until which the node must make no contact, before the machine gets a grace lease. Null without one."""
    returned_at: datetime | None = None
    """Time at which the machine that the recovery replaced asked again: a clone of the node is suspected. Null before."""
