"""Values: the lease, in both of its versions, and the structures inside it.

`Lease` is the one type that the rest of the code uses. Its `version` says which encoding it has, and so its `typ`.
Version 2 binds the licence to a node key and a chip, and its entitlements may have limits, dates and attributes.
`protocol.signed.statements` has the rules of evolution, and verifies leases.
"""

import re
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from protocol.encoding import json_encode
from protocol.fingerprint import FingerprintPolicy, PolicyError, check_policy
from protocol.ids import IdError, NodeId, RecoveryId, TenantId, parse_id
from protocol.limits import (
    ATTRIBUTE_NAME_CHARS_MAX,
    ATTRIBUTE_VALUE_CHARS_MAX,
    ATTRIBUTES_MAX,
    ENTITLEMENT_NAME_CHARS_MAX,
    ENTITLEMENTS_BYTES_MAX,
    ENTITLEMENTS_MAX,
    LIMIT_MAX,
    NOTIFY_DATES_MAX,
    REASON_CHARS_MAX,
)

Tier = Literal["attested", "tpm", "software"]
AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]

LEASE_VERSION = 2
"""The highest version of a lease that this code reads. A node reports it, and Fabric signs no later version for it."""

NV_INDICES = range(0x01000000, 0x02000000)
"""Handles of NV indices (TPM 2.0 Library Part 2, 7.2: the first byte is TPM_HT_NV_INDEX)."""

_KEY_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_EK_NAME = re.compile(r"000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128}", re.ASCII)


class LeaseInvalid(ValueError):
    """The parts of a lease contradict each other, or exceed their limits."""


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


class Entitlement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entitlement with terms. An entitlement without terms is its name alone, a string."""

    name: str
    """Name of the entitlement."""
    limit: int | None = None
    """Largest number that the licensed software may use, for example of cameras. The software counts. Null without."""
    not_before: AwareTime | None = None
    """The entitlement is granted from this time on. Null without."""
    until: AwareTime | None = None
    """The entitlement ends at this time. Null without."""
    attributes: dict[str, str] = {}
    """Attributes for the licensed software, by name."""


Grant = str | Entitlement
"""An entitlement of a lease: a name, or a name with terms."""


class HardwareFloor(msgspec.Struct, frozen=True, kw_only=True):
    """The NV counter of the node's TPM that versions the node's floor record."""

    index: int
    """NV index of the counter."""


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """Marks a final lease: no later lease follows unless the cause ends. It ends when the lease before it expired."""

    reason: str
    """Reason, for people."""


class Intervals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Intervals that the cloud sets for the node. The agent keeps them within the bounds of `protocol.limits`."""

    heartbeat_seconds: int | None = None
    """Length of a heartbeat slot. Null: the agent's own setting."""
    wake_seconds: int | None = None
    """Longest long poll of the wake channel. Null: the agent's own."""


class LeaseV1(Common, frozen=True, kw_only=True):
    """The encoding of version 1. Nothing is added to it any more."""

    tier: Tier
    profile: str
    entitlements: tuple[str, ...]
    not_before: datetime
    refresh_after: datetime
    expires_at: datetime
    grace_until: datetime
    terminate_at: datetime
    notify_at: tuple[datetime, ...] = ()
    renew_device_after: datetime | msgspec.UnsetType = msgspec.UNSET


class Lease(Common, frozen=True, kw_only=True):
    """The licence of one node and generation, with its dates. The agent has no dates of its own.

    It is the encoding of version 2. A lease of version 1 has an empty `node_key`, and none of the fields after it.
    """

    tier: Tier
    """Assurance tier that the hardware evidence reached."""
    profile: str
    """Profile of the node."""
    entitlements: tuple[Grant, ...]
    """Granted entitlements: a name, or an object if the entitlement has terms."""
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
    notify_at: tuple[AwareTime, ...] = ()
    """Dates at which the owner of the machine is notified of the expiry."""
    renew_device_after: datetime | msgspec.UnsetType = msgspec.UNSET
    """A device certificate made before this date is renewed once the date has come."""
    node_key: str = ""
    """SHA-256 of the node key's SubjectPublicKeyInfo in DER, in hex. Empty in version 1."""
    ek_name: str = ""
    """TPM name of the endorsement key that identifies the chip, in hex. Empty if the cloud does not know it, and for a
    node without a TPM."""
    fingerprint: FingerprintPolicy | None = None
    """The enrolled fingerprint, which the node is judged by. Null if the cloud enrolled none."""
    floor: HardwareFloor | None = None
    """The hardware floor of the node. Null if the cloud knows none."""
    final: Final | None = None
    """Set in a final lease. Null in every other lease."""
    intervals: Intervals | None = None
    """Intervals that the cloud sets. Null if it sets none."""
    clone_suspected: AwareTime | msgspec.UnsetType = msgspec.UNSET
    """Time since which the cloud suspects that a copy of this machine runs too. Left out while it suspects none."""
    recovery: RecoveryId | msgspec.UnsetType = msgspec.UNSET
    """Recovery case of a grace lease, which has no grace of its own: all three ends are one date. A person or a recovery
    code must still approve the case. Left out in every other lease."""

    @property
    def version(self) -> int:
        """The version of the encoding, 1 or 2."""
        return 2 if self.node_key else 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the entitlements, in their order."""
        return tuple(map(name_of, self.entitlements))

    def entitlement(self, name: str) -> Entitlement | None:
        """The entitlement of this name, or None if the lease has none."""
        for grant in self.entitlements:
            if name_of(grant) == name:
                return grant if isinstance(grant, Entitlement) else Entitlement(name=grant)
        return None


def name_of(grant: Grant) -> str:
    """The name of an entitlement."""
    return grant if isinstance(grant, str) else grant.name


def from_v1(lease: LeaseV1) -> Lease:
    """The lease that an encoding of version 1 says."""
    return Lease(**{name: getattr(lease, name) for name in LeaseV1.__struct_fields__})


def to_v1(lease: Lease) -> LeaseV1:
    """The encoding of version 1. Raises ValueError for an entitlement with terms: version 1 cannot say them."""
    if any(not isinstance(grant, str) for grant in lease.entitlements):
        raise ValueError("a lease of version 1 has no entitlements with terms")
    return LeaseV1(**{name: getattr(lease, name) for name in LeaseV1.__struct_fields__})


def check_lease(lease: Lease) -> None:
    """Check that the dates are in order, and that every part is within its limits. Raises LeaseInvalid."""
    dates = (
        lease.not_before,
        lease.issued_at,
        lease.refresh_after,
        lease.expires_at,
        lease.grace_until,
        lease.terminate_at,
    )
    if any(earlier > later for earlier, later in pairwise(dates)):
        raise LeaseInvalid("the dates of the lease are out of order")
    check_entitlements(lease.entitlements)
    if lease.version > 1:
        _check_v2(lease)


def _check_v2(lease: Lease) -> None:
    if not _KEY_HASH.fullmatch(lease.node_key) or (lease.ek_name and not _EK_NAME.fullmatch(lease.ek_name)):
        raise LeaseInvalid("the node key or the endorsement key of the lease is malformed")
    if lease.fingerprint is not None:
        try:
            check_policy(lease.fingerprint)
        except PolicyError as error:
            raise LeaseInvalid(str(error)) from error
    if len(lease.notify_at) > NOTIFY_DATES_MAX:
        raise LeaseInvalid("there are too many dates of notification")
    if lease.floor is not None and lease.floor.index not in NV_INDICES:
        raise LeaseInvalid("the floor's index is no NV index")
    if lease.final is not None:
        if lease.terminate_at != lease.expires_at:
            raise LeaseInvalid("a final lease has a grace")
        if len(lease.final.reason) > REASON_CHARS_MAX:
            raise LeaseInvalid("the reason of the final lease is too long")
    if lease.recovery is not msgspec.UNSET:
        _check_recovery(lease, lease.recovery)


def _check_recovery(lease: Lease, case: RecoveryId) -> None:
    if lease.terminate_at != lease.expires_at:
        raise LeaseInvalid("a grace lease of a recovery has a grace")
    try:
        parse_id("rcv", case)
    except IdError as error:
        raise LeaseInvalid("the recovery case of the lease is malformed") from error


def check_entitlements(entitlements: tuple[Grant, ...]) -> None:
    """Check names, terms and size of the entitlements of a lease or an activation code. Raises LeaseInvalid."""
    names = [name_of(grant) for grant in entitlements]
    if len(names) > ENTITLEMENTS_MAX or len(set(names)) != len(names):
        raise LeaseInvalid("there are too many entitlements, or the same one twice")
    if any(not 0 < len(name) <= ENTITLEMENT_NAME_CHARS_MAX for name in names):
        raise LeaseInvalid("an entitlement's name is empty or too long")
    terms = [grant for grant in entitlements if isinstance(grant, Entitlement)]
    for entitlement in terms:
        _check_terms(entitlement)
    if terms and len(json_encode(entitlements)) > ENTITLEMENTS_BYTES_MAX:
        raise LeaseInvalid("the entitlements are too long together")


def _check_terms(entitlement: Entitlement) -> None:
    if entitlement.limit is not None and not 0 <= entitlement.limit <= LIMIT_MAX:
        raise LeaseInvalid("an entitlement's limit is out of bounds")
    start, end = entitlement.not_before, entitlement.until
    if start is not None and end is not None and start >= end:
        raise LeaseInvalid("an entitlement ends before it begins")
    attributes = entitlement.attributes
    if len(attributes) > ATTRIBUTES_MAX:
        raise LeaseInvalid("an entitlement has too many attributes")
    for name, value in attributes.items():
        if not 0 < len(name) <= ATTRIBUTE_NAME_CHARS_MAX or len(value) > ATTRIBUTE_VALUE_CHARS_MAX:
            raise LeaseInvalid("the name or value of an entitlement's attribute is empty or too long")
