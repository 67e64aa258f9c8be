"""Pure functions: statements. Fabric signs a stream of statements about a node, ordered by (`epoch`, `seq`).

There are three types: lease, suspension and revocation. A statement counts for the node and generation that it names. A
later statement replaces an earlier one. An earlier one is stale. A new lease ends a suspension. In a generation no
statement follows a revocation.

Evolution: fields are added at the end with defaults. They are never reordered, renamed or reused. A reader ignores
fields that it does not know. A change that an old reader must not ignore is a new `typ`. The vectors in
`tests/protocol/vectors` are literal; a changed vector is a new version.
"""

from datetime import datetime
from typing import Literal

import msgspec

from protocol.encoding import json_decode, json_encode
from protocol.ids import IdError, NodeId, TenantId, parse_id
from protocol.limits import SEQ_MAX
from protocol.signed.envelope import EnvelopeError, KeyRing, covers, open_envelope, peek_typ
from protocol.signed.lease import (
    LEASE_VERSION,
    Common,
    Entitlement,
    Final,
    Grant,
    HardwareFloor,
    Intervals,
    Lease,
    LeaseInvalid,
    LeaseV1,
    Tier,
    check_lease,
    from_v1,
    to_v1,
)

TYP_LEASE = "cascade-lease+jws"
TYP_LEASE_V2 = "cascade-lease-v2+jws"
TYP_SUSPENSION = "cascade-suspension+jws"
TYP_REVOCATION = "cascade-revocation+jws"

RevocationReason = Literal["revoked", "released", "superseded"]


class Suspension(Common, frozen=True, kw_only=True):
    """Stops the workloads until a later statement. It does not expire."""

    reason: str


class Revocation(Common, frozen=True, kw_only=True):
    """Ends the generation. No later statement changes it."""

    reason: RevocationReason


Statement = Lease | Suspension | Revocation
_TYPES: dict[str, type[LeaseV1] | type[Lease] | type[Suspension] | type[Revocation]] = {
    TYP_LEASE: LeaseV1,
    TYP_LEASE_V2: Lease,
    TYP_SUSPENSION: Suspension,
    TYP_REVOCATION: Revocation,
}
_RIGHTS = {TYP_LEASE_V2: TYP_LEASE}
"""A published key names the `typ` of version 1. The right to sign leases does not depend on their encoding, so an
installation need not publish its keys again before it signs a later version."""


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
            return TYP_LEASE_V2 if statement.version > 1 else TYP_LEASE
        case Suspension():
            return TYP_SUSPENSION
        case Revocation():
            return TYP_REVOCATION


def payload_of(statement: Statement) -> bytes:
    """The bytes of the token's payload. Raises ValueError for a lease of version 1 with terms that it cannot say."""
    if isinstance(statement, Lease) and statement.version == 1:
        return json_encode(to_v1(statement))
    return json_encode(statement)


def _decode(typ: str, payload: bytes) -> Statement:
    try:
        decoded = json_decode(payload, _TYPES[typ])
        parse_id("ten", decoded.tenant)
        parse_id("node", decoded.node)
    except (msgspec.MsgspecError, IdError) as error:
        raise StatementError(8, "the payload is not a statement") from error
    if any(value.tzinfo is None for value in _dates(decoded)):
        raise StatementError(8, "a date has no time zone")
    if not (decoded.generation >= 1 and 0 <= decoded.epoch <= SEQ_MAX and 1 <= decoded.seq <= SEQ_MAX):
        raise StatementError(8, "generation, epoch or seq is out of bounds")
    if not isinstance(decoded, LeaseV1):
        return decoded
    return from_v1(decoded)


def _dates(statement: Common) -> list[datetime]:
    """The dates among the fields of a statement, also those in its lists."""
    values = [getattr(statement, name) for name in statement.__struct_fields__]
    listed = [value for values_of in values if isinstance(values_of, tuple) for value in values_of]
    return [value for value in (*values, *listed) if isinstance(value, datetime)]


def verify_statement(token: str, ring: KeyRing, trust_domain: str) -> Verified:
    """Verify a statement of any of the three types with the published keys. A lease may have either version.

    1-6. As `open_envelope`. A key that may sign leases of version 1 may sign those of version 2.
    7. The `typ` is that of a statement.
    8. The payload can be decoded, and ids, numbers and dates are well formed. A lease of version 2 names a node key.
    9. The key covers `issued_at`, and the trust domain is the expected one.
    10. The parts of a lease are consistent and within their limits.

    It does not check whether the statement is for a certain node, or newer than another; `Holder.holds`, `is_for` and
    `supersedes` do. Raises EnvelopeError or StatementError.
    """
    typ = peek_typ(token)
    if typ not in _TYPES:
        raise StatementError(7, "the document is not a statement")
    opened, key = open_envelope(token, typ, ring, right=_RIGHTS.get(typ, typ))
    statement = _decode(typ, opened.payload)
    if typ_of(statement) != typ:
        raise StatementError(8, "a lease of version 2 names no node key")
    if not covers(key, statement.issued_at):
        raise StatementError(9, "the signing key is not valid for the date of issue")
    if statement.trust_domain != trust_domain:
        raise StatementError(9, "the statement is of another trust domain")
    if isinstance(statement, Lease):
        try:
            check_lease(statement)
        except LeaseInvalid as error:
            raise StatementError(10, str(error)) from error
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


class Holder(msgspec.Struct, frozen=True):
    """The holder of a licence: one node in one generation, with its keys and its chip.

    `node_keys` are the keys that a lease may name: SHA-256 of the SubjectPublicKeyInfo, in hex. There are two of them
    while a rekey is under way. `ek_name` is the TPM name of the chip's EK, in hex. A lease is not compared with a value
    that is empty.
    """

    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int
    node_keys: tuple[str, ...] = ()
    ek_name: str = ""

    def holds(self, statement: Statement) -> bool:
        """Whether the statement counts for this node and generation, and a lease for its key and its chip."""
        if statement.trust_domain != self.trust_domain:
            return False
        if not is_for(statement, self.tenant, self.node, self.generation):
            return False
        return not isinstance(statement, Lease) or self._has(statement)

    def _has(self, lease: Lease) -> bool:
        """Whether key and chip that the lease names are the holder's. A lease of version 1 names neither."""
        other_key = lease.node_key and self.node_keys and lease.node_key not in self.node_keys
        other_chip = lease.ek_name and self.ek_name and lease.ek_name != self.ek_name
        return not (other_key or other_chip)

    def of_generation(self, generation: int) -> "Holder":
        """The same node on the same chip, in another generation. The keys of that generation are not known."""
        return msgspec.structs.replace(self, generation=generation, node_keys=())


__all__ = [
    "LEASE_VERSION",
    "TYP_LEASE",
    "TYP_LEASE_V2",
    "TYP_REVOCATION",
    "TYP_SUSPENSION",
    "Entitlement",
    "EnvelopeError",
    "Final",
    "Grant",
    "HardwareFloor",
    "Holder",
    "Intervals",
    "Lease",
    "LeaseInvalid",
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
