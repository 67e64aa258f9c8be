"""Messages: bodies about activations, and the settings of a tenant that decide about them.

They belong to the operators' API; `cloud.fabric.schemas` has the rules and offers these names too.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from cloud.fabric.bodies.published_trust import TEXT_CHARS_MAX
from cloud.fabric.lease_schemas import LeaseTerms
from protocol.bounds import limits
from protocol.ids import ActivationId, TenantId
from protocol.signed.statements import Tier

ActivationState = Literal[
    "challenged",
    "pending",
    "approved",
    "denied",
    "lifted",
    "expired",
    "proved",
    "issued",
    "confirmed",
    "lapsing",
    "lapsed",
    "superseded",
    "failed",
]
Matched = Literal["", "chip", "key", "fingerprint", "changed", "replaced", "claim"]
Text = Annotated[str, limits(maxLength=TEXT_CHARS_MAX)]


class SetApprovalTiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tiers whose activations an operator must approve."""

    tiers: Annotated[tuple[Tier, ...], limits(maxItems=3, uniqueItems=True)]
    """The tiers. Empty: only codes with `approval` demand an approval."""


class SetLeaseTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dates of the leases of a tier."""

    tier: Tier
    """The tier."""
    lease: LeaseTerms | None
    """The dates, for activations from now on whose code sets no dates. Null for the default dates."""


class Decide(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reason for a decision about an activation. The body may be `{}`."""

    reason: Text = ""
    """Reason for the audit. The machine gets the reason of a denial."""


class Activation(msgspec.Struct, frozen=True):
    """A run of the activation exchange, with the evidence that the machine has shown."""

    id: ActivationId
    """Id of the activation."""
    tenant: TenantId
    """Tenant of the code."""
    code: str
    """Activation code that the machine uses. Empty in a recovery."""
    state: ActivationState
    """`challenged`: no proof yet. `pending`: an operator must decide. `approved`: the machine may continue. `denied`:
    the machine is refused with this code. `lifted`, `expired`, `failed`, `lapsed`, `superseded`: ended. `proved`,
    `issued`: the confirm is due. `confirmed`: in force."""
    tier: Tier
    """Tier that the evidence reaches."""
    node: str
    """Id of the node, or of the node that the machine is recognised as. Empty for a new machine."""
    generation: int
    """Generation of the node. 0 before an approval."""
    matched: Matched
    """By what a known machine is recognised: its TPM (`chip`); its earlier key and its fingerprint (`key`); its own report
    alone (`fingerprint`); its earlier key alone, with too little of the enrolled fingerprint (`changed`). A machine that
    has gained a TPM is recognised by its own report and a code for its node (`fingerprint`). `replaced`: by the TPM that a
    recovery of the node replaced. `claim`: in a recovery, by a statement, an id or a recovery code alone."""
    ek_name: str
    """TPM name of the endorsement key in hex. Empty without a TPM."""
    ek_issuer: str
    """Issuer in the endorsement certificate. Verified for the tier `attested` only."""
    components: tuple[str, ...]
    """Names of the components in the machine's fingerprint."""
    agent_version: str
    """Version of the agent, as the machine says."""
    address: str
    """Network address of the machine at the start of the activation, as Fabric saw it."""
    created_at: datetime
    """Time of the start."""
    asked_at: datetime | None
    """Time of the proof from which the activation waits for an approval."""
    approve_by: datetime | None
    """Time at which a pending activation expires. After an approval: time until which the machine must return."""
    decided_at: datetime | None
    """Time of the decision."""
    decided_by: str
    """Id of the token of the operator who decided."""
    reason: str
    """Reason of the decision."""
    seat_reserved: bool
    """Whether the approval holds a seat of the code until the machine returns."""
    recovery: str = ""
    """Recovery case of the activation, from the proof on. `cascade recovery` decides about it. Empty without one."""
