"""Messages: suspected clones in the operators' API of Fabric. The rules are those of `cloud.fabric.schemas`."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from protocol.bounds import limits
from protocol.ids import NodeId, TenantId

ClonePolicy = Literal["newest-in-grace", "suspend-both"]
CloneCause = Literal["renewal-token", "tpm-clock", "chip", "fingerprint", "replaced", "former-key", "restored"]
"""Why a clone is suspected: two holders spend one chain of tokens; two TPMs of one state run; one chip was activated in
two places; two fingerprints take turns on one chip; the machine that a recovery replaced asks again; two machines take
turns with a former key and its successor; a machine was restored from a backup more often than the tenant's policy
repairs without a person."""
NoCause = Literal[""]
HolderState = Literal["current", "left", "older", "shut"]
"""`current`: its tokens are accepted. `left`: the current holder took its place, as a restored machine does. `older`: a
suspected copy, without new tokens. `shut`: an operator kept another holder."""


class SetClonePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What follows when a clone of a tenant's node is suspected."""

    policy: ClonePolicy
    """`newest-in-grace`: the newest holder of the node's key runs on, in grace, and the older one gets no new lease.
    `suspend-both`: the node is suspended until an operator settles it."""


class CloneEvidence(msgspec.Struct, frozen=True):
    """One holder of a node's key, with the evidence of its last session."""

    id: str
    """Name of this evidence, for settling."""
    state: HolderState
    """`current`: its sessions are accepted. `left`: a restored machine took its place. `older`: the suspected older
    copy, or a restored machine that waits for an operator; it gets no session. `shut`: an operator kept another holder."""
    since: datetime
    """Time of its first session."""
    seen_at: datetime
    """Time of its last session."""
    address: str
    """Address that the last session came from."""
    agent_version: str
    """Version of its agent."""
    fingerprint_hash: str
    """Short hash of the fingerprint that it reported. Equal hashes are equal fingerprints. Empty if it reported none, as
    in a renewal with a former key."""
    tpm_resets: int | None
    """Reset count of its TPM. Null without a TPM."""
    tpm_restarts: int | None
    """Restart count of its TPM. Null without a TPM."""
    tpm_clock_ms: int | None
    """Clock of its TPM, in ms. Null without a TPM."""


class CloneCase(msgspec.Struct, frozen=True):
    """The holders of a node's key, and the suspicion if there is one."""

    node: NodeId
    """Id of the node."""
    tenant: TenantId
    """Tenant of the node."""
    cause: Literal[NoCause, CloneCause]
    """Why a clone is suspected. Empty if none is. `renewal-token`: two holders spent one chain of renewal tokens.
    `tpm-clock`: two TPMs of the same state run. `chip`: the chip was activated in two places. `fingerprint`: two
    fingerprints take turns on one chip. `replaced`: the machine that a recovery replaced asks again. `former-key`: two
    machines take turns with a former key of the generation and with the key that replaced it. `restored`: the machine was
    restored from a backup more often than the tenant's policy repairs without a person, and waits for an operator."""
    suspected_at: datetime | None
    """Time at which the suspicion arose. Null if there is none."""
    standing: str
    """Standing of the node."""
    generation: int
    """Generation whose key the holders use."""
    restored: int
    """How many times the machine was put back from a backup, as far as its sessions show."""
    evidence: tuple[CloneEvidence, ...]
    """At most four holders, the current one first. Empty before the first session of the generation."""


class AutomaticRepairs(msgspec.Struct, frozen=True):
    """How often a node may be restored from a backup without an operator, and how often it was."""

    used: int
    """Number of automatic repairs in the period that ends now."""
    allowed: int
    """Number of automatic repairs that the tenant's policy allows in one period."""
    period_days: int
    """Length of the period, in days."""
    next_at: datetime | None
    """Time from which a restore is repaired without an operator. In the past if it is so already. Null if the policy
    allows none."""


class SettleClone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The holder that an operator keeps."""

    keep: Annotated[str, limits(minLength=8, maxLength=8)]
    """Id of the evidence of the holder to keep."""
