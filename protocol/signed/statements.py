"""Pure functions: statements. Fabric signs a stream of statements about a node, ordered by (`epoch`, `seq`).

There are three types: lease, suspension and revocation. A statement counts for the node and generation that it names. A
later statement replaces an earlier one. An earlier one is stale. A new lease ends a suspension. In a generation no
statement follows a revocation.

Evolution: fields are added at the end with defaults. They are never reordered, renamed or reused. A reader ignores
fields that it does not know. A change that an old reader must not ignore is a new `typ`. The vectors in
`tests/protocol/vectors` are literal; a changed vector is a new version.
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
    """The fields of every statement: the node and generation, the date of issue, and the position in the stream.

    `trust_domain` is the installation's, so that a statement of another installation is refused.
    """

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
    """The licence of one node and generation, with its dates. The agent has no dates of its own.

    `renew_device_after` is a renewal order (after a CA rotation or an incident): once this time has come, the node
    renews a device certificate that was made before this time.
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
    """Stops the workloads until a later statement. It does not expire."""

    reason: str


class Revocation(Common, frozen=True, kw_only=True):
    """Ends the generation. No later statement changes it."""

    reason: RevocationReason


Statement = Lease | Suspension | Revocation
_TYPES: dict[str, type[Lease] | type[Suspension] | type[Revocation]] = {
    TYP_LEASE: Lease,
    TYP_SUSPENSION: Suspension,
    TYP_REVOCATION: Revocation,
}


class StatementError(ValueError):
    """A statement does not verify. `step` is the number of the failed step of `verify_statement`."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"{reason} (step {step})")
        self.step = step
        self.reason = reason


class Verified(msgspec.Struct, frozen=True):
    """A verified statement, its token, and the `kid` of its signing key. It is void once the `kid` is withdrawn."""

    statement: Statement
    token: str
    kid: str


def typ_of(statement: Statement) -> str:
    """The `typ` of the statement's token."""
    match statement:
        case Lease():
            return TYP_LEASE
        case Suspension():
            return TYP_SUSPENSION
        case Revocation():
            return TYP_REVOCATION


def payload_of(statement: Statement) -> bytes:
    """The bytes of the token's payload."""
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
        raise StatementError(10, "there are too many entitlements, or the same one twice")
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
        raise StatementError(8, "a date has no time zone")
    if not (statement.generation >= 1 and 0 <= statement.epoch <= SEQ_MAX and 1 <= statement.seq <= SEQ_MAX):
        raise StatementError(8, "generation, epoch or seq is out of bounds")
    return statement


def verify_statement(token: str, ring: KeyRing, trust_domain: str) -> Verified:
    """Verify a statement of any of the three types with the published keys.

    1-6. As `open_envelope`.
    7. The `typ` is that of a statement.
    8. The payload can be decoded, and ids, numbers and dates are well formed.
    9. The key covers `issued_at`, and the trust domain is the expected one.
    10. The dates and entitlements of a lease are consistent.

    It does not check whether the statement is for a certain node, or newer than another; `Holder.holds`, `is_for` and
    `supersedes` do. Raises EnvelopeError or StatementError.
    """
    typ = peek_typ(token)
    if typ not in _TYPES:
        raise StatementError(7, "the document is not a statement")
    opened, key = open_envelope(token, typ, ring)
    statement = _decode(typ, opened.payload)
    if not covers(key, statement.issued_at):
        raise StatementError(9, "the signing key is not valid for the date of issue")
    if statement.trust_domain != trust_domain:
        raise StatementError(9, "the statement is of another trust domain")
    if isinstance(statement, Lease):
        _check_lease(statement)
    return Verified(statement=statement, token=token, kid=opened.kid)


def is_for(statement: Statement, tenant: str, node: str, generation: int) -> bool:
    """Whether the statement names this tenant, node and generation."""
    return (statement.tenant, statement.node, statement.generation) == (tenant, node, generation)


def position(statement: Statement) -> tuple[int, int]:
    """The position in the stream: (`epoch`, `seq`)."""
    return statement.epoch, statement.seq


def supersedes(new: Statement, current: Statement | None) -> bool:
    """Whether `new` replaces `current`: both are for one node and generation, and `new` is later in the stream.

    A revocation replaces any other statement, and no statement replaces a revocation. An equal position is not later.
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
    """The holder of a licence: one node in one generation."""

    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int

    def holds(self, statement: Statement) -> bool:
        """Whether the statement counts for this node and generation."""
        return statement.trust_domain == self.trust_domain and is_for(
            statement, self.tenant, self.node, self.generation
        )
