"""Values: rows of Fabric's tables, one frozen struct a table."""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.audit import AuditEntry
from cloud.fabric.attestation.drift import Drift
from cloud.fabric.bodies.clones import CloneCause, ClonePolicy, NoCause
from cloud.fabric.bodies.recovery import RecoveryEvidence, RecoveryPolicy
from cloud.fabric.bodies.restored import Hold
from cloud.fabric.licensing.former_keys import FormerKey
from cloud.fabric.schemas import (
    ActivationState,
    LeaseIntervals,
    LeaseTerms,
    Matched,
    PcrPolicy,
    Standing,
    StatementType,
)
from protocol.endorsement import EkType
from protocol.ids import ActivationId, CodeId, NodeId, RecoveryCodeId, RecoveryId, RenewalId, TenantId, TokenId
from protocol.messages.recovery import CaseState, Needs, Situation
from protocol.signed.statements import Grant, Tier

FIRST_EPOCH = 1
"""The epoch of an installation that was never restored from a backup."""
RenewalState = Literal["challenged", "failed", "proved", "issued", "done"]
GenerationState = Literal["offered", "confirmed", "closed"]


class TenantRow(msgspec.Struct, frozen=True):
    """A tenant. `tiers` are the tiers that it admits; `fingerprint_salt` goes to its machines. `pcr_policies` has the
    policy for PCR quotes by profile; the key "" is for every other profile. `clone_policy` says what follows a
    suspected clone. A person approves activations of the tiers in `approval_tiers`. `lease_terms` replaces the
    default dates of a tier. `recovery` is its policy for recoveries."""

    id: TenantId
    name: str
    fingerprint_salt: bytes
    tiers: tuple[Tier, ...]
    created_at: datetime
    pcr_policies: dict[str, PcrPolicy] = {}
    clone_policy: ClonePolicy = "newest-in-grace"
    approval_tiers: tuple[Tier, ...] = ()
    lease_terms: dict[Tier, LeaseTerms] = {}
    recovery: RecoveryPolicy = RecoveryPolicy()


class EkRootRow(msgspec.Struct, frozen=True):
    """A maker's CA certificate (DER) that a tenant trusts. `id` is a hash over tenant, type and certificate, so the
    same certificate is stored once."""

    id: str
    tenant: TenantId
    sha256: str
    certificate: bytes
    ek_type: EkType
    added_at: datetime


class EkAllowedRow(msgspec.Struct, frozen=True):
    """A chip that a tenant admits as `attested` without an endorsement certificate. `id` is a hash over tenant and
    EK name."""

    id: str
    tenant: TenantId
    ek_name: str
    note: str
    added_at: datetime


class CodeRow(msgspec.Struct, frozen=True):
    """An activation code. `seats_taken` changes by compare-and-set only. `lease` replaces the tier's terms. An entitlement
    without terms is its name.

    With `approval` a person approves each activation. The code admits no tier below `tier_min`. `proof_key` is the public
    key by which a request without a network proves the code (`protocol.airgap.code_proof`); empty for codes of earlier
    releases. `expired`: the background work has found that `expires_at` has passed.
    """

    id: CodeId
    tenant: TenantId
    secret_hash: str
    profile: str
    entitlements: tuple[Grant, ...]
    lease: LeaseTerms | None
    seats: int
    seats_taken: int
    readmit_node: NodeId | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    intervals: LeaseIntervals | None = None
    approval: bool = False
    tier_min: Tier = "software"
    proof_key: str = ""
    expired: bool = False


class RecoveryClaimed(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine claimed at the start of a recovery, as far as it was checked then.

    `node` is the node that the claim, its statement or the recovery code `code` names; empty if only the chip can name
    one. `statement`: Fabric verified a statement of this node. `later`: the database had no such statement, or an earlier
    one of the generation. Fields are empty without a value.
    """

    node: NodeId
    situation: Situation
    statement: bool = False
    last_ran_at: datetime | None = None
    code: RecoveryCodeId = RecoveryCodeId("")
    later: bool = False


class ActivationRow(msgspec.Struct, frozen=True):
    """One run of the activation exchange.

    States: challenged -> proved -> issued -> confirmed. challenged -> failed after the last wrong answer.
    challenged -> pending -> approved -> proved if a person must approve. pending -> denied -> lifted.
    pending or approved -> expired at `approve_by`, or -> superseded by a later activation of the same chip.
    proved or issued -> lapsing -> lapsed if it is not confirmed in time, or the issuer refuses its CSR.
    proved or issued -> superseded if a later generation is confirmed, or the node is revoked or released.
    `node` and the fields after it are empty until the proof, except `ek_name`: the TPM name of the EK that the
    challenge is encrypted to, in hex. It is empty without one, and in rows of earlier releases.
    Fields from `ek_issuer` on are evidence and decision of an approval. `address` is the caller's. `candidate` is the
    node that the machine is recognised as, empty for a new one; `matched` says by what. `seat_reserved`: the approval
    holds a seat of the code for the machine.
    `claim` is set in a recovery, which has no `code`; `recovery` is its case from the proof on.
    In the tier `software`, `ak_public` is the node key (SubjectPublicKeyInfo), and `ek_hash` a hash of that key.
    """

    id: ActivationId
    tenant: TenantId
    code: CodeId
    state: ActivationState
    tries: int
    secret_hash: str
    ek_hash: str
    ak_public: bytes
    tier: Tier
    agent_version: str
    created_at: datetime
    expires_at: datetime
    node: NodeId
    generation: int
    proof_hash: str
    csr: bytes
    not_after: datetime | None
    confirm_by: datetime | None
    certificate_chain: tuple[bytes, ...]
    ek_name: str = ""
    ek_issuer: str = ""
    address: str = ""
    fingerprint: dict[str, str] = {}
    matched: Matched = ""
    candidate: str = ""
    seat_reserved: bool = False
    asked_at: datetime | None = None
    approve_by: datetime | None = None
    decided_at: datetime | None = None
    decided_by: str = ""
    decision_reason: str = ""
    recovery: RecoveryId = RecoveryId("")
    claim: RecoveryClaimed | None = None


class NodeRow(msgspec.Struct, frozen=True):
    """A node: one machine of one tenant.

    `ek_hash` identifies its chip. `current_generation` is 0 before the first confirm. Fabric has closed the generations
    up to `closed_up_to`; Breakwater has closed those up to `closed_at_issuer`; `closing` says that the two numbers
    differ. `code` is the activation code that gave the seat. `lease_until` is the latest `terminate_at` of any lease
    signed for the node. `wake_cursor` grows with every change that the node should fetch. `development` is true if
    the node's last session reported development mode. `superseded_asked_at` is the last time at which a superseded
    generation asked, `superseded_asked_generation` is that generation's number; None and 0 if none ever did.
    `clone_cause` says why a clone of the node is suspected since `clone_at`; empty and None if none is.
    `floor_index` is the NV index of the counter in the TPM that versions the floor record, 0 if the node never had one;
    `floor_value` is the last reported value of the counter; `floor_reset_at` is the last time at which the value was below
    an earlier one, or the index another one. None if it never was.
    `enrolled` is the fingerprint of the first activation, or of a later one in which a person approved the change; drift
    is measured against it. It is empty for nodes that an earlier release made.
    `overlap_until` is the latest `terminate_at` that a closed generation had when it was closed: so long may a machine
    with that generation run offline. None if no closed generation had a lease.
    `presented_epoch` is the installation's epoch in which the node last presented its statement, or was activated. A
    lower epoch than the installation's means that the cloud was restored since. `hold` says why the node gets no later
    dates since `hold_at`, empty and None without a reason. `reconstructed_at` is the time at which the row was made from
    the node's certificate and statement, None for a row of an activation.
    `repairs` has the times of the last automatic repairs, the newest last (`cloud.fabric.licensing.repairs`).
    """

    id: NodeId
    tenant: TenantId
    ek_hash: str
    standing: Standing
    standing_reason: str
    standing_at: datetime
    current_generation: int
    last_generation: int
    closed_up_to: int
    closed_at_issuer: int
    closing: bool
    epoch: int
    seq: int
    code: CodeId
    seat_held: bool
    tier: Tier
    profile: str
    entitlements: tuple[Grant, ...]
    lease: LeaseTerms | None
    lease_until: datetime | None
    wake_cursor: int
    created_at: datetime
    confirmed_at: datetime | None
    development: bool = False
    superseded_asked_at: datetime | None = None
    superseded_asked_generation: int = 0
    clone_cause: CloneCause | NoCause = ""
    clone_at: datetime | None = None
    intervals: LeaseIntervals | None = None
    floor_index: int = 0
    floor_value: int = 0
    floor_reset_at: datetime | None = None
    enrolled: dict[str, str] = {}
    overlap_until: datetime | None = None
    presented_epoch: int = FIRST_EPOCH
    hold: Hold = ""
    hold_at: datetime | None = None
    reconstructed_at: datetime | None = None
    repairs: tuple[datetime, ...] = ()
    silent_until: datetime | None = None


class GenerationRow(msgspec.Struct, frozen=True):
    """A generation of a node: the key of one activation, and its current statement.

    `drift` compares the last reported fingerprint with that of the activation; None before the first report.
    `statement` is the signed token, empty before the first. `told_at` is the time when a request was first refused
    with the revocation. `fingerprint` comes from the activation, `seen_fingerprint` from the last session.
    `trust_version` is the highest version of the published targets that the node has reported. `device_issuer` is the
    key id of the CA of the device certificate that the last session showed.
    `ek_name` is the TPM name of the EK of the activation, in hex, empty if none is known. `lease_version` is the highest
    version of leases that the node reads. `lease_facts` is the hash of what the stored lease says beside its dates
    (`cloud.fabric.licensing.statements.facts`).
    `pcr_accepted` are the PCR values (hex) of the activation, or those that an operator accepted later; `pcr_values`
    those of the last valid quote. Both are empty without one. `pcr_fault` says why the last quote is missing or invalid.
    `pcr_changed_at` is the time at which `pcr_values` or `pcr_fault` changed last.
    `holders` has the holders of the key as JSON (`cloud.fabric.licensing.known_holders`), empty before the first session;
    `holders_version` grows with each change of it. Sessions that were opened before `sessions_from` fetch no statement.
    While the machine runs on a grace lease, `recovery` is the case that must be approved, and `grace_until` the end of
    the grace lease.
    `former_keys` has the keys that `node_public_key` replaced (`cloud.fabric.licensing.former_keys`).
    """

    id: str
    node: NodeId
    number: int
    state: GenerationState
    node_public_key: bytes
    ak_public: bytes
    fingerprint: dict[str, str]
    agent_version: str
    created_at: datetime
    confirmed_at: datetime | None
    certificate_not_after: datetime | None
    statement: str
    statement_type: StatementType
    seq: int
    issued_at: datetime | None
    refresh_after: datetime | None
    terminate_at: datetime | None
    told_at: datetime | None
    seen_at: datetime | None = None
    seen_fingerprint: dict[str, str] = {}
    trust_version: int = 0
    device_issuer: str = ""
    ek_name: str = ""
    lease_version: int = 1
    lease_facts: str = ""
    pcr_accepted: tuple[str, ...] = ()
    pcr_values: tuple[str, ...] = ()
    pcr_fault: str = ""
    pcr_changed_at: datetime | None = None
    drift: Drift | None = None
    holders: str = ""
    holders_version: int = 0
    sessions_from: datetime | None = None
    recovery: RecoveryId = RecoveryId("")
    grace_until: datetime | None = None
    former_keys: tuple[FormerKey, ...] = ()


class RecoveryCaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery case: a machine asks for its node back. A node has one unfinished case at most.

    States: open, eligible, needs_operator, approved, code_issued -> consumed when the new generation is confirmed with
    its full right, or -> refused, or -> lapsed at `decide_by`. `code_issued` and `approved` come from eligible,
    needs_operator and refused.
    `activation` is the last activation of the machine. `ek_hash` identifies the machine that asks, `old_ek_hash` the
    machine of `old_generation`. `generation` is 0 before the recovery has made one. `overlap_until` is the `terminate_at`
    of the old generation. With `grace` the machine got, or gets at its confirm, a grace lease; `grace_until` is the end
    of the lease that was signed. Before, the node must make no contact until `silent_until`. `returned_at` is the time at which the replaced machine first asked again.
    """

    id: RecoveryId
    tenant: TenantId
    node: NodeId
    situation: Situation
    state: CaseState
    needs: Needs
    evidence: RecoveryEvidence
    activation: ActivationId
    ek_hash: str
    old_ek_hash: str
    old_generation: int
    generation: int
    overlap_until: datetime | None
    opened_at: datetime
    decide_by: datetime
    next_allowed_at: datetime | None = None
    decided_at: datetime | None = None
    decided_by: str = ""
    reason: str = ""
    code: RecoveryCodeId = RecoveryCodeId("")
    grace: bool = False
    grace_until: datetime | None = None
    silent_until: datetime | None = None
    returned_at: datetime | None = None


class RenewalRow(msgspec.Struct, frozen=True):
    """A renewal of a generation's device certificate with new TPM evidence.

    `expired`: the certificate in the request opens no session, or is in the last third of its life. Only then may the
    node keep its key. A new key is allowed at any time.
    States: challenged -> proved -> issued -> done. challenged -> failed after the last wrong answer, or if the machine
    is a copy. A renewal with a new key stays in `issued` until the issuer has revoked the certificates of the old key. A
    renewal with the same key goes from proved to done. The fields from `proof_hash` to `certificate_chain` are empty
    until the proof. `ak_public` is the attestation key of the evidence, if the generation's own one is not known.
    `held_key` is the SHA-256 of the key in the certificate of the request, in hex, if that is or was a key of the
    generation; else it is empty. `returned`: the renewal gave the generation a former key again, or a machine that held
    a former key renewed.
    """

    id: RenewalId
    node: NodeId
    tenant: TenantId
    generation: int
    state: RenewalState
    tries: int
    secret_hash: str
    expired: bool
    created_at: datetime
    expires_at: datetime
    proof_hash: str
    csr: bytes
    node_public_key: bytes
    not_after: datetime | None
    certificate_chain: tuple[bytes, ...]
    ak_public: bytes = b""
    held_key: str = ""
    agent_version: str = ""
    returned: bool = False


class RecoveryCodeRow(msgspec.Struct, frozen=True):
    """A recovery code. `secret_hash` is an HMAC of its text under a key of the installation.

    `node` is the node that it recovers; empty if it recovers any node of the tenant whose fingerprint matches.
    `recovery_case` is the case that it was issued for, if any. It is accepted from `usable_from` until before
    `expires_at`, once: `used_at` is the time, `used_case` the recovery case that used it. `proof_key` is the public
    key of the code (`protocol.airgap.code_proof`); empty for a code of an earlier release.
    """

    id: RecoveryCodeId
    tenant: TenantId
    secret_hash: str
    node: NodeId
    recovery_case: str
    created_at: datetime
    created_by: str
    usable_from: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_case: str = ""
    revoked_at: datetime | None = None
    proof_key: str = ""


class TokenRow(msgspec.Struct, frozen=True):
    """An operator token."""

    id: TokenId
    name: str
    secret_hash: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class AuditRow(AuditEntry, frozen=True, kw_only=True):
    """An audit entry. `detail` holds ids, numbers and reasons by name."""

    detail: dict[str, str]


def generation_id(node: NodeId, number: int) -> str:
    """The primary key of a generation's row."""
    return f"{node}.{number}"


def without_tpm(node: NodeRow, generation: GenerationRow) -> bool:
    """Whether sessions of this generation come from a machine without a TPM.

    The tier of a node is that of its generation in force. A machine that has gained or lost a TPM has an offered
    generation of the other kind, until its confirm. Without a TPM the node key itself answered the challenge.
    """
    if generation.state == "offered":
        return generation.ak_public == generation.node_public_key
    return node.tier == "software"


def enrolled_of(node: NodeRow, generation: GenerationRow) -> dict[str, str]:
    """The fingerprint that reports of this generation are compared with.

    With a TPM: that of the activation. Without one: that of the node's first activation, or of a later one whose change
    a person has approved, so that small changes add up over several activations too.
    """
    if node.tier != "software" or generation.state == "offered" or not node.enrolled:
        return generation.fingerprint
    return node.enrolled
