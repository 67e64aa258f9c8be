"""Messages: recovery codes and policies in the operators' API of Fabric. The rules are those of `cloud.fabric.schemas`."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from protocol.bounds import limits
from protocol.ids import NodeId, RecoveryCodeId, RecoveryId, TenantId

GRACE_QUOTA_MAX = 10_000
"""Most automatic grace leases of a tenant in a period."""
REPAIR_QUOTA_MAX = 100
PERIOD_DAYS_MAX = 3650
GRACE_HOURS_MAX = 720
"""Longest grace lease: 30 days, longer than a holiday."""
SILENCE_MINUTES_MAX = 1440
CODE_DELAY_HOURS_MAX = 720
CASE_DAYS_MAX = 365
CODES_AT_ONCE_MAX = 20
"""Most codes of one issue: a sheet of paper."""

RecoveryCodeState = Literal["open", "delayed", "used", "expired", "revoked"]


class SetRecoveryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values of a tenant's policy for recoveries. Values that are left out stay as they are."""

    grace_quota: Annotated[int | msgspec.UnsetType, limits(minimum=0, maximum=GRACE_QUOTA_MAX)] = msgspec.UNSET
    """Number of grace leases that the tenant's nodes get without a person in one period."""
    period_days: Annotated[int | msgspec.UnsetType, limits(minimum=1, maximum=PERIOD_DAYS_MAX)] = msgspec.UNSET
    """Length of the period, in days."""
    grace_hours: Annotated[int | msgspec.UnsetType, limits(minimum=1, maximum=GRACE_HOURS_MAX)] = msgspec.UNSET
    """Longest life of a grace lease, in hours."""
    silence_minutes: Annotated[int | msgspec.UnsetType, limits(minimum=0, maximum=SILENCE_MINUTES_MAX)] = msgspec.UNSET
    """Minutes in which the node must make no contact before another machine gets a grace lease. 0: it gets it at once."""
    repair_quota: Annotated[int | msgspec.UnsetType, limits(minimum=0, maximum=REPAIR_QUOTA_MAX)] = msgspec.UNSET
    """Number of automatic repairs of one node, restored from a backup, in one period."""
    code_delay_hours: Annotated[int | msgspec.UnsetType, limits(minimum=0, maximum=CODE_DELAY_HOURS_MAX)] = (
        msgspec.UNSET
    )
    """Hours until a re-issued recovery code is accepted."""
    case_days: Annotated[int | msgspec.UnsetType, limits(minimum=1, maximum=CASE_DAYS_MAX)] = msgspec.UNSET
    """Days in which a case must be decided."""


class IssueRecoveryCodes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Recovery codes to issue, for exactly one of `node`, `case` and `tenant`."""

    expires_at: datetime
    """Time from which the codes are refused: with a time zone, in the future, within two years."""
    node: NodeId | None = None
    """Node that each code recovers."""
    case: RecoveryId | None = None
    """Undecided recovery case that the code is for. The code recovers the node of the case."""
    tenant: TenantId | None = None
    """Tenant. Each code recovers any node of the tenant whose fingerprint matches."""
    count: Annotated[int, limits(minimum=1, maximum=CODES_AT_ONCE_MAX)] = 1
    """Number of codes. One for a case."""


class RecoveryCode(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery code, without its text."""

    id: RecoveryCodeId
    """Id of the code. The id recovers nothing."""
    tenant: TenantId
    """Tenant of the node."""
    node: str
    """Node that the code recovers. Empty: any node of the tenant whose fingerprint matches."""
    case: str
    """Case that the code was issued for. Empty without one."""
    state: RecoveryCodeState
    """`open`: accepted. `delayed`: a re-issued code that is accepted from `usable_from` on. `used`, `expired`,
    `revoked`: refused."""
    created_at: datetime
    """Time of the issue."""
    created_by: str
    """Id of the operator's token."""
    usable_from: datetime
    """Time from which the code is accepted."""
    expires_at: datetime
    """Time from which the code is refused."""
    used_at: datetime | None
    """Time of its use. Null before."""
    used_case: str
    """Case that used the code. Empty before."""
    revoked_at: datetime | None
    """Time at which an operator revoked the code."""


class IssuedRecoveryCode(msgspec.Struct, frozen=True):
    """A new recovery code with its text."""

    code: RecoveryCode
    """The code."""
    secret: str
    """Text of the code. This answer is the only place that shows it; Fabric stores a keyed hash."""


class IssuedRecoveryCodes(msgspec.Struct, frozen=True):
    """New recovery codes with their texts."""

    codes: tuple[IssuedRecoveryCode, ...]
    """The codes."""
    reissued: bool
    """Whether the node, or the tenant, had another code in the period. The new codes are then accepted later."""
