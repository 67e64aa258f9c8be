"""Messages: bodies of requests and answers of the operators' API of Fabric.

The nodes' messages are in `protocol.messages`. Requests refuse unknown fields. Evolution: a field is added at the end
with a default, and never renamed or reused. Times are RFC 3339 with a time zone, answers use UTC. A duration has its
unit in its name. The text below a field is its description in the API document.
"""

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

from cloud.fabric import lease_schemas
from cloud.fabric.bodies import activations, hardware, published_trust
from cloud.fabric.bodies.clones import AutomaticRepairs, CloneCause, ClonePolicy, NoCause
from cloud.fabric.bodies.restored import Hold
from protocol.bounds import limits
from protocol.ids import CodeId, NodeId, TenantId, TokenId
from protocol.limits import (
    ENTITLEMENTS_MAX,
    NAME_CHARS_MAX,
    SEATS_MAX,
)
from protocol.signed.statements import Tier

T = TypeVar("T")

TERM_SECONDS_MAX = lease_schemas.TERM_SECONDS_MAX

Standing = Literal["active", "suspended", "revoked", "released"]
CodeState = Literal["open", "spent", "expired", "revoked"]
ActivationState = activations.ActivationState
Matched = activations.Matched
StatementType = Literal["", "lease", "suspension", "revocation"]

Name = Annotated[str, limits(minLength=1, maxLength=NAME_CHARS_MAX)]
Entitlement = lease_schemas.Entitlement
Text = Annotated[str, limits(maxLength=published_trust.TEXT_CHARS_MAX)]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list."""

    items: tuple[T, ...]
    """The items of this page."""
    next_cursor: str = ""
    """Cursor of the next page. Empty on the last page. Clients must not read or build it."""


LeaseTerms = lease_schemas.LeaseTerms
EntitlementTerms = lease_schemas.EntitlementTerms
LeaseIntervals = lease_schemas.LeaseIntervals
SetApprovalTiers = activations.SetApprovalTiers
SetLeaseTerms = activations.SetLeaseTerms


# Tenants and their trust in hardware.


class CreateTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to create."""

    name: Name
    """Name for people: printable characters. Names need not be unique."""


class Tenant(msgspec.Struct, frozen=True):
    """A tenant: one customer, with its nodes and activation codes."""

    id: TenantId
    """Id of the tenant."""
    name: str
    """Name that the operator gave."""
    tiers: tuple[Tier, ...]
    """Assurance tiers that the tenant admits at an activation."""
    created_at: datetime
    """Time of creation."""
    clone_policy: ClonePolicy = "newest-in-grace"
    """What follows when a clone of a node is suspected."""
    overlap_until: datetime | None = None
    """Latest time until which a machine with a closed generation of one of the nodes may run, if it stays offline. Null if
    there is none."""


PcrPolicy = hardware.PcrPolicy
ALLOW_EKS_MAX = hardware.ALLOW_EKS_MAX
AcceptPcrs = hardware.AcceptPcrs
AddEkRoots = hardware.AddEkRoots
AddedEkRoots = hardware.AddedEkRoots
AllowEk = hardware.AllowEk
AllowEks = hardware.AllowEks
AllowedEk = hardware.AllowedEk
AllowedEks = hardware.AllowedEks
EkRoot = hardware.EkRoot
RefusedCertificate = hardware.RefusedCertificate
RefusedEk = hardware.RefusedEk
RemoveEk = hardware.RemoveEk
SetPcrPolicy = hardware.SetPcrPolicy
SetTiers = hardware.SetTiers
TenantTrust = hardware.TenantTrust


# Activation codes.


class CreateCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An activation code to create."""

    profile: Name
    """Profile of the nodes that this code activates."""
    expires_at: datetime
    """Time from which the code activates no machine: with a time zone, in the future, within ten years."""
    entitlements: Annotated[tuple[Entitlement, ...], limits(maxItems=ENTITLEMENTS_MAX, uniqueItems=True)] = ()
    """Names of the entitlements that a lease of this code grants, of up to 64 characters each."""
    seats: Annotated[int, limits(minimum=1, maximum=SEATS_MAX)] = 1
    """Number of machines that the code can activate at one time."""
    readmit_node: NodeId | None = None
    """Revoked node that this code readmits. Such a code activates no other machine. It may name an active node without a TPM
    too: its machine stays the node when it gains a TPM, or when it lost its key."""
    lease: LeaseTerms | None = None
    """Dates of the leases. Without them the tier of the machine decides."""
    entitlement_terms: Annotated[tuple[EntitlementTerms, ...], limits(maxItems=ENTITLEMENTS_MAX)] = ()
    """Entitlements with terms, each named once. They need not be in `entitlements`. All entitlements together have at most
    17,408 bytes in JSON."""
    intervals: LeaseIntervals | None = None
    """Intervals of the nodes' contacts. Without them each agent uses its own."""
    approval: bool = False
    """Whether an operator must approve each activation with this code."""
    tier_min: Tier = "software"
    """Least tier that the code admits. The tenant must admit the tier as well."""


class Code(msgspec.Struct, frozen=True):
    """An activation code, without its text."""

    id: CodeId
    """Id of the code. The id activates nothing."""
    tenant: TenantId
    """Tenant of the machines that the code activates."""
    state: CodeState
    """`open`: activates machines. `spent`: no seat is free. `expired`, `revoked`: activates no machine."""
    profile: str
    """Profile of the nodes."""
    entitlements: tuple[str, ...]
    """Names of the entitlements that a lease grants."""
    seats: int
    """Number of machines that the code can activate at one time."""
    seats_taken: int
    """Number of seats in use."""
    expires_at: datetime
    """Time from which the code activates no machine."""
    created_at: datetime
    """Time of creation."""
    revoked_at: datetime | None
    """Time at which an operator revoked the code."""
    readmit_node: NodeId | None
    """Node that this code is for; null for a code that any machine can use."""
    lease: LeaseTerms | None
    """Dates of the leases, if the code sets them."""
    entitlement_terms: tuple[EntitlementTerms, ...] = ()
    """The entitlements with terms."""
    intervals: LeaseIntervals | None = None
    """Intervals of the nodes' contacts, if the code sets them."""
    approval: bool = False
    """Whether an operator must approve each activation."""
    tier_min: Tier = "software"
    """Least tier that the code admits."""


class CreatedCode(msgspec.Struct, frozen=True):
    """A new activation code with its text."""

    code: Code
    """The code."""
    secret: str
    """Text of the code. This answer is the only place that shows it; Fabric stores a hash."""


# Activations.

Decide = activations.Decide
Activation = activations.Activation


# Nodes.


class ChangeStanding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reason for a change of a node's standing. The body may be `{}`."""

    reason: Text = ""
    """Reason for the audit and for `standing_reason`. The node gets the reason of a suspension, signed, and no other."""


class Node(msgspec.Struct, frozen=True):
    """A node: one machine as Fabric knows it."""

    id: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    standing: Standing
    """Standing of the node."""
    standing_reason: str
    """Reason that the operator gave for the standing."""
    standing_at: datetime
    """Time of the last change of the standing."""
    tier: Tier
    """Assurance tier that the hardware evidence reached."""
    profile: str
    """Profile, from the activation code."""
    entitlements: tuple[str, ...]
    """Names of the entitlements, from the activation code."""
    generation: int
    """Confirmed generation. 0 before the first confirm."""
    last_generation: int
    """Newest generation, confirmed or not."""
    closing: bool
    """Whether Breakwater has not closed yet a generation that Fabric has closed."""
    seat_held: bool
    """Whether the node takes a seat of its code."""
    code: CodeId
    """Activation code that gave the seat."""
    created_at: datetime
    """Time of the first activation."""
    confirmed_at: datetime | None
    """Time of the last confirm."""
    lease_until: datetime | None
    """Latest time at which a lease signed for the node terminates."""
    development: bool = False
    """Whether the node's last session reported that its agent runs in development mode."""
    superseded_asked_at: datetime | None = None
    """Time at which a superseded generation asked last, although a later generation is in force."""
    superseded_asked_generation: int = 0
    """Number of that superseded generation. 0 if none asked."""
    notice: str = ""
    """What deserves an operator's attention. Empty if nothing does."""
    entitlement_terms: tuple[EntitlementTerms, ...] = ()
    """The entitlements with terms, from the activation code."""
    intervals: LeaseIntervals | None = None
    """Intervals of the node's contacts, from the activation code."""
    floor_index: int = 0
    """NV index of the counter in the TPM that versions the node's floor record. 0 if the node never reported one."""
    floor_value: int = 0
    """Last reported value of this counter."""
    floor_reset_at: datetime | None = None
    """Last time at which the node reported a lower value than before, or another index. A further report within an hour does
    not change it. Null if it never did."""
    clone_cause: Literal[NoCause, CloneCause] = ""
    """Why a clone of the node is suspected. Empty if none is."""
    overlap_until: datetime | None = None
    """Time until which a machine with a closed generation of the node may run, if it stays offline. Null if no closed
    generation had a lease."""
    hold: Hold = ""
    """Why the node gets no later dates after a restore or a rebuild: `conflicting` or `unconfirmed`. Empty if it does."""
    hold_at: datetime | None = None
    """Time since when it gets no later dates. Null if it does."""
    presented_epoch: int = 1
    """Epoch of the installation in which the node last presented its statement. Each restore begins an epoch."""
    reconstructed_at: datetime | None = None
    """Time at which the node was reconstructed from its certificate and statement. Null for other nodes."""


class Generation(msgspec.Struct, frozen=True):
    """A generation: one activation of a node, with its key in the TPM and its current statement."""

    number: int
    """Number of the generation, from 1."""
    state: Literal["offered", "confirmed", "closed"]
    """`offered`: the certificate is issued and the confirm is due. `confirmed`: in force. `closed`: ended."""
    agent_version: str
    """Version of the agent that the node reported last."""
    created_at: datetime
    """Time of the activation."""
    confirmed_at: datetime | None
    """Time of the confirm."""
    certificate_not_after: datetime | None
    """End of the device certificate."""
    statement: StatementType
    """Type of the current statement. Empty before the confirm."""
    seq: int
    """Number of the current statement in the node's stream."""
    issued_at: datetime | None
    """Time at which Fabric signed the current statement."""
    terminate_at: datetime | None
    """Time at which the current lease terminates."""
    fingerprint: dict[str, str]
    """Fingerprint that the node reported last: name of a component to its HMAC-SHA-256 in hex."""
    told_at: datetime | None
    """Time at which the node first received the revocation of this generation, as the answer to a request."""
    seen_at: datetime | None = None
    """Time of the last session."""
    pcr_values: tuple[str, ...] = ()
    """Values of the PCRs 0 to 7 in the last valid quote, in hex. Empty without one."""
    pcr_changed: tuple[int, ...] = ()
    """Numbers of the PCRs whose values differ from those of the activation, or from those an operator accepted later."""
    pcr_fault: str = ""
    """Reason why the last session had no valid quote. Empty if it had one."""
    pcr_changed_at: datetime | None = None
    """Time at which the values or the fault changed last."""
    lease_version: int = 1
    """Highest version of leases that the node reads, as its last session reported. Version 1 grants no entitlement with a
    limit or dates."""
    drift: hardware.FingerprintDrift | None = None
    """Comparison of the fingerprints. Null before the first session."""


class NodeDetail(msgspec.Struct, frozen=True):
    """A node with its newest generations."""

    node: Node
    """The node."""
    generations: tuple[Generation, ...]
    """At most 20 generations, the newest first."""
    receipt_outstanding_since: datetime | None = None
    """Time at which the node's last request that came in a file was answered, if its receipt is outstanding and the node
    has opened no session since. Null for every other node."""
    repairs: AutomaticRepairs | None = None
    """Automatic repairs of the node after a restore from a backup. Null in the answer to a change of the node."""


# Published trust.

Adoption = published_trust.Adoption
IssuerAdoption = published_trust.IssuerAdoption
NodeAdoption = published_trust.NodeAdoption
PublishTrust = published_trust.PublishTrust
RenewalOrder = published_trust.RenewalOrder
RenewDevices = published_trust.RenewDevices
ServiceAdoption = published_trust.ServiceAdoption
Trust = published_trust.Trust


# Operators' tokens.


class CreateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token to create."""

    name: Name
    """Name of the person or program that gets the token, for the audit."""
    expires_at: datetime | None = None
    """Time from which the token is refused: with a time zone, in the future. Without it the token does not expire."""


class Token(msgspec.Struct, frozen=True):
    """An operator's token, without its text."""

    id: TokenId
    """Id of the token. The audit names the operator by it."""
    name: str
    """Name of the person or program that has the token."""
    created_at: datetime
    """Time of creation."""
    expires_at: datetime | None
    """Time from which the token is refused."""
    revoked_at: datetime | None
    """Time at which an operator revoked the token."""


class CreatedToken(msgspec.Struct, frozen=True):
    """A new token with its text."""

    token: Token
    """The token."""
    secret: str
    """Text of the token. This answer is the only place that shows it; Fabric stores a hash."""


# Audit.


class AuditEntry(msgspec.Struct, frozen=True):
    """One entry of the audit."""

    id: str
    """Id of the entry. Ids sort by time."""
    at: datetime
    """Time of the action."""
    actor: str
    """`operator:` and the id of the token, the SPIFFE id of a node, `anonymous`, or `system`."""
    action: str
    """Name of the action, for example `code.created`."""
    object: str
    """Id of the object."""
    tenant: str
    """Tenant of the object. Empty if it belongs to no tenant."""
    outcome: Literal["done", "refused"]
    """Whether the action was done or refused."""
    detail: dict[str, str]
    """Values that the action records, by name."""
    request: str = ""
    """Id of the request that caused the action, as in its answer's `X-Request-Id`. Empty for an action of Fabric
    itself, and for entries of earlier releases."""


class Health(msgspec.Struct, frozen=True):
    """State of the service."""

    status: str
    """`ok`"""
