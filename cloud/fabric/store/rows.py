"""Rows of Fabric's tables, one frozen struct a table."""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.audit import AuditEntry
from cloud.fabric.schemas import EkType, LeaseTerms, Standing, StatementType
from protocol.ids import ActivationId, CodeId, NodeId, RenewalId, TenantId, TokenId
from protocol.signed.statements import Tier

ActivationState = Literal["challenged", "proved", "issued", "confirmed", "lapsing", "lapsed", "superseded", "failed"]
RenewalState = Literal["challenged", "failed", "proved", "issued", "done"]
GenerationState = Literal["offered", "confirmed", "closed"]


class TenantRow(msgspec.Struct, frozen=True):
    """A customer."""

    id: TenantId
    name: str
    fingerprint_salt: bytes
    tiers: tuple[Tier, ...]
    created_at: datetime


class EkRootRow(msgspec.Struct, frozen=True):
    """`id` is a hash over tenant, certificate and type: the same root twice is the same row."""

    id: str
    tenant: TenantId
    sha256: str
    certificate: bytes
    ek_type: EkType
    added_at: datetime


class EkAllowedRow(msgspec.Struct, frozen=True):
    """`id` is a hash over tenant and EK name."""

    id: str
    tenant: TenantId
    ek_name: str
    note: str
    added_at: datetime


class CodeRow(msgspec.Struct, frozen=True):
    """`seats_taken` moves by compare-and-set only. `lease` replaces the tier's dates."""

    id: CodeId
    tenant: TenantId
    secret_hash: str
    profile: str
    entitlements: tuple[str, ...]
    lease: LeaseTerms | None
    seats: int
    seats_taken: int
    readmit_node: NodeId | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class ActivationRow(msgspec.Struct, frozen=True):
    """`node`, `generation` and what follows are empty until the proof.

    challenged -> proved -> issued -> confirmed, or from there lapsing -> lapsed, or superseded by a later
    generation; challenged -> failed after the last wrong answer.
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


class NodeRow(msgspec.Struct, frozen=True):
    """A machine. `current_generation` is 0 before the first confirm; generations up to `closed_up_to` are closed
    here, up to `closed_at_issuer` also at Breakwater, and `closing` says that these differ. `code` is the one that
    gave the seat. `lease_until` is the latest `terminate_at` of any lease ever signed for it. `wake_cursor` moves
    with every change that the node should fetch.
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
    entitlements: tuple[str, ...]
    lease: LeaseTerms | None
    lease_until: datetime | None
    wake_cursor: int
    created_at: datetime
    confirmed_at: datetime | None


class GenerationRow(msgspec.Struct, frozen=True):
    """One activation's key in the chip. `statement` is the signed token of this generation, empty before the
    first; `told_at` is when a session was first refused with the revocation in it. `fingerprint` is the one of the
    activation, `seen_fingerprint` the last one seen with a session (nothing compares them yet).
    `trust_version` is the highest version of the published targets that the node reported, `device_issuer` the
    key id of the CA of the device certificate that its last session showed."""

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


class RenewalRow(msgspec.Struct, frozen=True):
    """A renewal of a generation's device certificate with fresh evidence. `expired`: the certificate that was shown
    was due, or is past what a session takes, so the same key may be renewed; another key always may.

    challenged -> proved -> issued -> done; challenged -> failed after the last wrong answer. `issued` waits until the
    issuer has revoked the certificates of the key before; the same key goes to `done` at once. What follows `expires_at` is empty until the
    proof.
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


class TokenRow(msgspec.Struct, frozen=True):
    """An operator's token."""

    id: TokenId
    name: str
    secret_hash: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class AuditRow(AuditEntry, frozen=True, kw_only=True):
    """Who did what, with ids, numbers and reasons by name."""

    detail: dict[str, str]


def generation_id(node: NodeId, number: int) -> str:
    """The primary key of a generation."""
    return f"{node}.{number}"
