"""Messages: bodies of Fabric's events. Each has the public state of one object after the change.

A body has no secret: no text and no hash of a code, no key, no statement and no fingerprint. Services and tenants read
these bodies, so no field names an operator, or has a reason that is for operators only. `cloud.contracts.event_nouns`
has the rules of evolution. The text below a field is its description in the schema.
"""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.contracts.event_nouns import EventNoun, pasts_of
from protocol.ids import CodeId, NodeId, TenantId
from protocol.signed.lease import Tier

SERVICE = "fabric"

# `recorded` is the first event of an object that existed before this release published events.
TenantPast = Literal["created", "changed", "reconstructed", "recorded"]
NodePast = Literal[
    "activated",
    "confirmed",
    "rehomed",
    "lapsed",
    "suspended",
    "resumed",
    "revoked",
    "released",
    "clone_suspected",
    "clone_settled",
    "held",
    "accepted",
    "reconstructed",
    "seat_freed",
    "changed",
    "recorded",
]
CodePast = Literal["created", "used", "freed", "revoked", "expired", "recorded"]
StatementPast = Literal["issued", "recorded"]


class LeaseDates(msgspec.Struct, frozen=True, kw_only=True):
    """Dates of a lease, in seconds after its issue."""

    refresh_after_seconds: int
    """The node refreshes the lease from this date on."""
    expires_seconds: int
    """The lease expires, and its grace begins."""
    grace_seconds: int
    """The grace ends."""
    terminate_seconds: int
    """The lease terminates."""


class GrantedEntitlement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entitlement with its terms."""

    name: str
    """Name of the entitlement."""
    limit: int | None = None
    """Largest number that the licensed software may use. Left out without a limit."""
    not_before: datetime | None = None
    """The entitlement is granted from this time on. Left out without a start."""
    until: datetime | None = None
    """The entitlement ends at this time. Left out without an end."""
    attributes: dict[str, str] = {}
    """Attributes for the licensed software, by name. Left out without attributes."""


class RecoveryRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant lets happen in a recovery without a person."""

    grace_quota: int
    """Number of grace leases that the tenant's nodes get without a person in one period."""
    period_days: int
    """Length of the period, in days."""
    grace_hours: int
    """Longest life of a grace lease, in hours."""
    silence_minutes: int
    """Minutes in which the node must make no contact before another machine gets a grace lease."""
    repair_quota: int
    """Number of automatic repairs of one node, restored from a backup, in one period."""
    code_delay_hours: int
    """Hours until a re-issued recovery code is accepted."""
    case_days: int
    """Days in which a case must be decided."""


class TenantV1(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant, with its policies for machines."""

    id: TenantId
    """Id of the tenant."""
    name: str
    """Name that the operator gave."""
    created_at: datetime
    """Time of creation."""
    tiers: tuple[Tier, ...]
    """Assurance tiers that the tenant admits at an activation."""
    approval_tiers: tuple[Tier, ...]
    """Assurance tiers whose activations a person approves."""
    lease_terms: dict[str, LeaseDates]
    """Dates of leases that replace the default of a tier, by tier."""
    pcr_policies: dict[str, str]
    """Policy for PCR quotes, by profile. The empty profile is every other one."""
    clone_policy: str
    """What follows when a clone of a node is suspected."""
    recovery: RecoveryRules
    """Policy for recoveries."""


class NodeV1(msgspec.Struct, frozen=True, kw_only=True):
    """A node, with its standing."""

    id: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    created_at: datetime
    """Time of the first activation."""
    standing: Literal["active", "suspended", "revoked", "released"]
    """Standing of the node. Only an active node with a confirmed generation gets leases."""
    standing_reason: str
    """Reason of a suspension, as the node gets it. Empty in every other standing."""
    standing_at: datetime
    """Time of the last change of the standing."""
    tier: Tier
    """Assurance tier that the hardware evidence reached."""
    profile: str
    """Profile of the node."""
    entitlements: tuple[GrantedEntitlement, ...]
    """Entitlements of the node."""
    generation: int
    """Number of the generation in force. 0 before the first confirm."""
    last_generation: int
    """Number of the newest generation. It is above `generation` while an activation is not confirmed."""
    closed_up_to: int
    """Every generation up to this number is closed. 0 if none is."""
    confirmed_at: datetime | None
    """Time of the last confirm. Null before the first."""
    code: CodeId | None
    """Activation code that gave the seat. Null for a node that was reconstructed."""
    seat_held: bool
    """Whether the node takes a seat of its code."""
    development: bool
    """Whether the node's last session reported that its agent runs in development mode."""
    clone_cause: str
    """Why a clone of the node is suspected. Empty if none is."""
    clone_at: datetime | None
    """Time since when a clone is suspected. Null if none is."""
    hold: str
    """Why the node gets no later dates after a restore of the cloud. Empty if it does."""
    hold_at: datetime | None
    """Time since when it gets no later dates. Null if it does."""
    overlap_until: datetime | None
    """Time until which a machine with a closed generation may run, if it stays offline. Null if none may."""
    reconstructed_at: datetime | None
    """Time at which the node was reconstructed from its certificate and statement. Null for other nodes."""


class CodeV1(msgspec.Struct, frozen=True, kw_only=True):
    """An activation code, without its text."""

    id: CodeId
    """Id of the code."""
    tenant: TenantId
    """Tenant of the code."""
    created_at: datetime
    """Time of creation."""
    expires_at: datetime
    """Time from which the code is refused."""
    expired: bool
    """Whether Fabric has noticed that the code has expired. It notices within minutes."""
    revoked_at: datetime | None
    """Time at which an operator revoked the code. Null if none did."""
    seats: int
    """Number of machines that the code admits."""
    seats_taken: int
    """Number of its seats that are taken or reserved."""
    profile: str
    """Profile of the nodes."""
    entitlements: tuple[GrantedEntitlement, ...]
    """Entitlements of the nodes."""
    readmit_node: NodeId | None
    """The only node that the code admits. Null if it admits any machine."""
    approval: bool
    """Whether a person approves each activation."""
    tier_min: Tier
    """Lowest assurance tier that the code admits."""


class StatementV1(msgspec.Struct, frozen=True, kw_only=True):
    """The current signed statement of a generation of a node, without the statement itself.

    A statement that Fabric signs for one copy of a node is not the statement of its generation, and has no event.
    """

    node: NodeId
    """Node of the statement."""
    generation: int
    """Generation of the statement."""
    tenant: TenantId
    """Tenant of the node."""
    type: Literal["lease", "suspension", "revocation"]
    """Type of the statement."""
    seq: int
    """Number of the statement in the node's stream. After a restore of the cloud from a backup, a number can come again."""
    issued_at: datetime
    """Time of the signature."""
    refresh_after: datetime | None
    """The node refreshes the lease from this date on. Null for a statement of another type."""
    terminate_at: datetime | None
    """The lease terminates. Null for a statement of another type."""


TENANT = EventNoun(service=SERVICE, noun="tenant", body=TenantV1, pasts=pasts_of(TenantPast))
NODE = EventNoun(service=SERVICE, noun="node", body=NodeV1, pasts=pasts_of(NodePast))
CODE = EventNoun(service=SERVICE, noun="code", body=CodeV1, pasts=pasts_of(CodePast))
STATEMENT = EventNoun(service=SERVICE, noun="statement", body=StatementV1, pasts=pasts_of(StatementPast))

NOUNS = (TENANT, NODE, CODE, STATEMENT)
"""Every noun of Fabric's events."""
