"""Bodies of requests and answers of the operators' API of Fabric.

Not the nodes' messages, which stand in `protocol`. Requests refuse unknown fields. Evolution: fields are added at
the end with defaults, never renamed or reused. Times are RFC 3339 UTC, durations carry their unit in the name.
Lists are pages: `GET ...?cursor=&limit=` answers `Page`; `next_cursor` is empty on the last one.
"""

from datetime import datetime
from typing import Generic, Literal, TypeVar

import msgspec

from protocol.ids import CodeId, NodeId, TenantId, TokenId
from protocol.signed.statements import Tier

T = TypeVar("T")

Standing = Literal["active", "suspended", "revoked", "released"]
CodeState = Literal["open", "spent", "expired", "revoked"]
StatementType = Literal["", "lease", "suspension", "revocation"]
EkType = Literal["rsa2048", "ecc_p256"]
"""Which of a chip's endorsement keys identifies it under a root: RSA-2048 unless said otherwise."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items and where to go on; `next_cursor` is opaque, and empty at the end."""

    items: tuple[T, ...]
    next_cursor: str = ""


# Tenants and their trust in hardware.


class CreateTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants` -> 201 Tenant"""

    name: str


class Tenant(msgspec.Struct, frozen=True):
    """`GET /v1/tenants/{id}`; `GET /v1/tenants` -> Page[Tenant]. `tiers` are those it admits."""

    id: TenantId
    name: str
    tiers: tuple[Tier, ...]
    created_at: datetime


class AddEkRoots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{id}/trust/ek-roots` -> 200 TenantTrust. `pem`: one or more CA certificates.

    Roots that are there already are left alone, so a repeat is harmless.
    """

    pem: str
    ek_type: EkType = "rsa2048"


class AllowEk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{id}/trust/ek-allowed` -> 200 TenantTrust. `ek_name`: hex of the EK's TPM name
    (algorithm 000b and SHA-256: 68 digits), as `cascadia` shows it for the machine at hand."""

    ek_name: str
    note: str = ""


class SetTiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`PUT /v1/tenants/{id}/trust/tiers` -> 200 TenantTrust. `software` cannot be admitted yet."""

    tiers: tuple[Tier, ...]


class EkRoot(msgspec.Struct, frozen=True):
    """A manufacturer's CA that the tenant trusts to vouch for endorsement keys."""

    sha256: str
    subject: str
    ek_type: EkType
    not_after: datetime
    added_at: datetime


class AllowedEk(msgspec.Struct, frozen=True):
    """One chip that counts as attested without a certificate."""

    ek_name: str
    note: str
    added_at: datetime


class TenantTrust(msgspec.Struct, frozen=True):
    """`GET /v1/tenants/{id}/trust`"""

    tenant: TenantId
    tiers: tuple[Tier, ...]
    ek_roots: tuple[EkRoot, ...]
    ek_allowed: tuple[AllowedEk, ...]


# Activation codes.


class LeaseTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dates of a lease, in seconds from its issue; they must not fall."""

    refresh_after_seconds: int
    expires_seconds: int
    grace_seconds: int
    terminate_seconds: int


class CreateCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{id}/codes` -> 201 CreatedCode.

    `lease` replaces the dates that the tier gives. `readmit_node` makes a code for that one revoked node.
    """

    profile: str
    expires_at: datetime
    entitlements: tuple[str, ...] = ()
    seats: int = 1
    readmit_node: NodeId | None = None
    lease: LeaseTerms | None = None


class Code(msgspec.Struct, frozen=True):
    """`GET /v1/tenants/{id}/codes` -> Page[Code]; `POST /v1/codes/{id}/revoke` -> 200 Code."""

    id: CodeId
    tenant: TenantId
    state: CodeState
    profile: str
    entitlements: tuple[str, ...]
    seats: int
    seats_taken: int
    expires_at: datetime
    created_at: datetime
    revoked_at: datetime | None
    readmit_node: NodeId | None
    lease: LeaseTerms | None


class CreatedCode(msgspec.Struct, frozen=True):
    """The code's text, shown this once; only its hash is kept."""

    code: Code
    secret: str


# Nodes.


class ChangeStanding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/nodes/{id}/{suspend,resume,revoke,release}` -> 200 Node. The body may be `{}`.

    A repeat is harmless. 409 `conflict` where the node's standing does not allow the change. The reason of a
    suspension goes to the node, signed; the others stand in the audit only.
    """

    reason: str = ""


class Node(msgspec.Struct, frozen=True):
    """`GET /v1/nodes?tenant=&standing=` -> Page[Node].

    `generation` is the confirmed one, 0 before the first. `closing` says that the issuer has not closed yet
    generations that are closed here.
    """

    id: NodeId
    tenant: TenantId
    standing: Standing
    standing_reason: str
    standing_at: datetime
    tier: Tier
    profile: str
    entitlements: tuple[str, ...]
    generation: int
    last_generation: int
    closing: bool
    seat_held: bool
    code: CodeId
    created_at: datetime
    confirmed_at: datetime | None
    lease_until: datetime | None


class Generation(msgspec.Struct, frozen=True):
    """One activation of a node: its key in that chip, and the statement that stands for it."""

    number: int
    state: Literal["offered", "confirmed", "closed"]
    agent_version: str
    created_at: datetime
    confirmed_at: datetime | None
    certificate_not_after: datetime | None
    statement: StatementType
    seq: int
    issued_at: datetime | None
    terminate_at: datetime | None
    fingerprint: dict[str, str]
    told_at: datetime | None
    seen_at: datetime | None = None


class NodeDetail(msgspec.Struct, frozen=True):
    """`GET /v1/nodes/{id}`; the newest generations first, at most 20."""

    node: Node
    generations: tuple[Generation, ...]


# Published trust, its adoption, and the order to renew device certificates.


class PublishTrust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/trust/targets` -> 200 Trust: what the offline holders have signed.

    `roots` in order of their version; `targets` is targets.json, empty to publish roots alone; `contents` by name, of
    which those that are stored already may be left out. A repeat of the same bytes is harmless. 422 `trust_refused`;
    409 `adoption_incomplete` when a root or issuer is dropped too early, unless `override` with a reason.
    """

    roots: tuple[bytes, ...] = ()
    targets: bytes = b""
    contents: dict[str, bytes] = {}
    override: bool = False
    reason: str = ""


class Trust(msgspec.Struct, frozen=True):
    """Versions and ends of what is published now."""

    targets_version: int
    targets_expire_at: datetime
    root_version: int
    root_expires_at: datetime


class IssuerAdoption(msgspec.Struct, frozen=True):
    """Nodes by the CA of the device certificate that they showed last: its key id, empty for "none shown yet".

    `published`: it is in the bundle. `sessions_until`: until then a session certificate of it may count.
    """

    key_id: str
    subject: str
    published: bool
    nodes: int
    sessions_until: datetime | None


class ServiceAdoption(msgspec.Struct, frozen=True):
    """A service's TLS certificate, by the key id of the CA that issued it; Breakwater's as it was last met.

    `trust_version` is known of Fabric only: Breakwater works by its own authorities.
    """

    name: str
    issuer: str
    published: bool
    trust_version: int | None = None


class RenewDevices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/trust/renew-devices` -> 200 RenewalOrder. `after`: none means now. Nodes are woken one after the other
    over `spread_seconds`; none means as long as the fleet needs at 50 a second."""

    after: datetime | None = None
    reason: str = ""
    spread_seconds: int | None = None


class RenewalOrder(msgspec.Struct, frozen=True):
    """Device certificates made before `after` are renewed; `woken` of about `nodes` have been woken."""

    after: datetime
    reason: str
    set_at: datetime
    spread_seconds: int
    nodes: int
    woken: int
    done: bool


class Adoption(msgspec.Struct, frozen=True):
    """`GET /v1/trust/adoption`, of the nodes with an open confirmed generation: `adopted` of `nodes` say that they work
    by the published targets."""

    trust_version: int
    nodes: int
    adopted: int
    issuers: tuple[IssuerAdoption, ...]
    services: tuple[ServiceAdoption, ...]
    renewal: RenewalOrder | None


class NodeAdoption(msgspec.Struct, frozen=True):
    """`GET /v1/trust/adoption/nodes?issuer=` -> Page[NodeAdoption]: without `issuer` those that work by an older
    trust; with it those whose device certificate is of that key id (`none`: that showed none yet)."""

    node: NodeId
    tenant: TenantId
    trust_version: int
    device_issuer: str
    seen_at: datetime | None


# Operators' tokens.


class CreateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tokens` -> 201 CreatedToken"""

    name: str
    expires_at: datetime | None = None


class Token(msgspec.Struct, frozen=True):
    """`GET /v1/tokens` -> Page[Token]; `POST /v1/tokens/{id}/revoke` -> 200 Token."""

    id: TokenId
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class CreatedToken(msgspec.Struct, frozen=True):
    """The token's text, shown this once; only its hash is kept."""

    token: Token
    secret: str


# Audit.


class AuditEntry(msgspec.Struct, frozen=True):
    """`GET /v1/audit?tenant=&object=&action=` -> Page[AuditEntry], newest first.

    `actor`: `operator:<token id>`, a node's SPIFFE id, `anonymous` or `system`.
    """

    id: str
    at: datetime
    actor: str
    action: str
    object: str
    tenant: str
    outcome: Literal["done", "refused"]
    detail: dict[str, str]


class Health(msgspec.Struct, frozen=True):
    """`GET /healthz`, `GET /readyz`"""

    status: str
