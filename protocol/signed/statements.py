"""What Fabric says of a node: one stream of signed statements of three types, ordered by (`epoch`, `seq`).

A statement counts for the one node and generation it names. A later one wins, an older one is stale; resuming is a
new lease; nothing follows a revocation within its generation.

Evolution: fields are added at the end with defaults, never reordered, renamed or reused. A reader ignores fields it
does not know. A change that an old reader must not ignore is a new `typ`. The vectors in `tests/protocol/vectors`
are literal: a changed vector is a new version.
"""

from datetime import datetime
from itertools import pairwise
from typing import Literal

import msgspec

from protocol.encoding import json_decode, json_encode
from protocol.ids import IdError, NodeId, TenantId, parse_id
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX, ENTITLEMENTS_MAX, SEQ_MAX
from protocol.signed.envelope import EnvelopeError, KeyRing, covers, open_envelope, peek_typ

TYP_LEASE = "cascade-lease+jws"
TYP_SUSPENSION = "cascade-suspension+jws"
TYP_REVOCATION = "cascade-revocation+jws"

Tier = Literal["attested", "tpm", "software"]
RevocationReason = Literal["revoked", "released", "superseded"]


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """Of whom, when, and where in the stream. `trust_domain` keeps two installations apart."""

    trust_domain: str
    """Trust domain of the installation."""
    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: int
    """Generation of the node."""
    epoch: int
    """First number of the order of statements. `cascade init` sets it for the installation."""
    seq: int
    """Second number of the order of statements. It grows with each statement of the node."""
    issued_at: datetime
    """Time of the signature."""


class Lease(Common, frozen=True, kw_only=True):
    """The licence of one node and generation. The dates are data, not constants of the agent.

    `renew_device_after`: a device certificate made before this time is renewed once it has come (CA rotation, incident).
    """

    tier: Tier
    """Assurance tier that the hardware evidence reached."""
    profile: str
    """Profile of the node."""
    entitlements: tuple[str, ...]
    """Names of the granted entitlements."""
    not_before: datetime
    """Start of the lease."""
    refresh_after: datetime
    """The node refreshes the lease from this date on."""
    expires_at: datetime
    """The lease expires, and its grace begins."""
    grace_until: datetime
    """The grace ends. From this date on no new work starts."""
    terminate_at: datetime
    """The lease terminates, and the gate closes."""
    notify_at: tuple[datetime, ...] = ()
    """Dates at which the owner of the machine is notified of the expiry."""
    renew_device_after: datetime | msgspec.UnsetType = msgspec.UNSET
    """A device certificate made before this date is renewed once the date has come."""


class Suspension(Common, frozen=True, kw_only=True):
    """Stops the workloads until a later statement; has no expiry of its own."""

    reason: str


class Revocation(Common, frozen=True, kw_only=True):
    """Ends this generation for ever."""

    reason: RevocationReason


Statement = Lease | Suspension | Revocation
_TYPES: dict[str, type[Lease] | type[Suspension] | type[Revocation]] = {
    TYP_LEASE: Lease,
    TYP_SUSPENSION: Suspension,
    TYP_REVOCATION: Revocation,
}


class StatementError(ValueError):
    """A signed statement that must not be believed. `step` counts on from the steps of `open_envelope`."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"{reason} (step {step})")
        self.step = step
        self.reason = reason


class Verified(msgspec.Struct, frozen=True):
    """A statement with the token it came in and the `kid` that signed it (withdrawing a `kid` voids it)."""

    statement: Statement
    token: str
    kid: str


def typ_of(statement: Statement) -> str:
    match statement:
        case Lease():
            return TYP_LEASE
        case Suspension():
            return TYP_SUSPENSION
        case Revocation():
            return TYP_REVOCATION


def payload_of(statement: Statement) -> bytes:
    return json_encode(statement)


def _check_lease(lease: Lease) -> None:
    dates = (
        lease.not_before,
        lease.issued_at,
        lease.refresh_after,
        lease.expires_at,
        lease.grace_until,
        lease.terminate_at,
    )
    if any(earlier > later for earlier, later in pairwise(dates)):
        raise StatementError(10, "the dates of the lease are out of order")
    names = lease.entitlements
    if len(names) > ENTITLEMENTS_MAX or len(set(names)) != len(names):
        raise StatementError(10, "too many entitlements, or one twice")
    if any(not 0 < len(name) <= ENTITLEMENT_NAME_CHARS_MAX for name in names):
        raise StatementError(10, "an entitlement's name is empty or too long")


def _decode(typ: str, payload: bytes) -> Statement:
    try:
        statement = json_decode(payload, _TYPES[typ])
        parse_id("ten", statement.tenant)
        parse_id("node", statement.node)
    except (msgspec.MsgspecError, IdError) as error:
        raise StatementError(8, "the payload is not a statement") from error
    aware = [v for v in (getattr(statement, f) for f in statement.__struct_fields__) if isinstance(v, datetime)]
    if any(value.tzinfo is None for value in aware):
        raise StatementError(8, "a date without a time zone")
    if not (statement.generation >= 1 and 0 <= statement.epoch <= SEQ_MAX and 1 <= statement.seq <= SEQ_MAX):
        raise StatementError(8, "generation, epoch or seq out of bounds")
    return statement


def verify_statement(token: str, ring: KeyRing, trust_domain: str) -> Verified:
    """Open a statement of any of the three types under the published keys.

    1-6 as `open_envelope`; 7 the type is one of the three; 8 the payload decodes, ids and numbers in bounds; 9 the
    key's window covers `issued_at`, and the trust domain is ours; 10 a lease is consistent.
    Raises EnvelopeError or StatementError. Whether it is for *this* node and is newer is `supersedes` and `is_for`.
    """
    typ = peek_typ(token)
    if typ not in _TYPES:
        raise StatementError(7, "not a statement")
    opened, key = open_envelope(token, typ, ring)
    statement = _decode(typ, opened.payload)
    if not covers(key, statement.issued_at):
        raise StatementError(9, "the signing key did not count at the date of issue")
    if statement.trust_domain != trust_domain:
        raise StatementError(9, "a statement of another trust domain")
    if isinstance(statement, Lease):
        _check_lease(statement)
    return Verified(statement=statement, token=token, kid=opened.kid)


def is_for(statement: Statement, tenant: str, node: str, generation: int) -> bool:
    return (statement.tenant, statement.node, statement.generation) == (tenant, node, generation)


def position(statement: Statement) -> tuple[int, int]:
    return statement.epoch, statement.seq


def supersedes(new: Statement, current: Statement | None) -> bool:
    """Whether `new` takes the place of `current`: both of one node and generation, later in the stream.

    A revocation is final in its generation. The same position again is not newer.
    """
    if current is None:
        return True
    if (new.tenant, new.node, new.generation) != (current.tenant, current.node, current.generation):
        return False
    if isinstance(current, Revocation):
        return False
    return isinstance(new, Revocation) or position(new) > position(current)


__all__ = [
    "TYP_LEASE",
    "TYP_REVOCATION",
    "TYP_SUSPENSION",
    "EnvelopeError",
    "Lease",
    "Revocation",
    "RevocationReason",
    "Statement",
    "StatementError",
    "Suspension",
    "Tier",
    "Verified",
    "is_for",
    "payload_of",
    "position",
    "supersedes",
    "typ_of",
    "verify_statement",
]


class Holder(msgspec.Struct, frozen=True):
    """Whose licence: one node in one generation."""

    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int

    def holds(self, statement: Statement) -> bool:
        """Whether the statement counts for this node and generation."""
        return statement.trust_domain == self.trust_domain and is_for(
            statement, self.tenant, self.node, self.generation
        )
