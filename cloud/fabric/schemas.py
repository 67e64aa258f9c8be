"""Messages: bodies of requests and answers of Fabric's operator API.

The messages of nodes are in `protocol`. Requests refuse unknown fields. Evolution: new fields are added at the end
with defaults; fields are never renamed or reused. Times are RFC 3339 in UTC; the name of a duration ends with its
unit. Lists are pages: `GET ...?cursor=&limit=` answers a `Page`.
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
"""The type of endorsement key that identifies a maker's chips. Default: RSA-2048."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list. Pass `next_cursor` as `cursor` to read the next page; it is empty on the last page.

    The cursor is opaque: clients must not read or build it.
    """

    items: tuple[T, ...]
    next_cursor: str = ""


# Tenants and their trust in hardware.


class CreateTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants` -> 201 Tenant"""

    name: str


class Tenant(msgspec.Struct, frozen=True):
    """`GET /v1/tenants/{id}`; `GET /v1/tenants` -> Page[Tenant]. `tiers` are the tiers that the tenant admits."""

    id: TenantId
    name: str
    tiers: tuple[Tier, ...]
    created_at: datetime


class AddEkRoots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{id}/trust/ek-roots` -> 200 TenantTrust. `pem` holds one or more CA certificates.

    A certificate that the tenant trusts already is not added twice, so a repeat changes nothing.
    """

    pem: str
    ek_type: EkType = "rsa2048"


class AllowEk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{id}/trust/ek-allowed` -> 200 TenantTrust.

    `ek_name` is the TPM name of the endorsement key in hex: 68 digits, the algorithm `000b` and a SHA-256. `cascadia`
    shows it for the machine on which it runs.
    """

    ek_name: str
    note: str = ""


class SetTiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`PUT /v1/tenants/{id}/trust/tiers` -> 200 TenantTrust. The tier `software` is not supported yet."""

    tiers: tuple[Tier, ...]


class EkRoot(msgspec.Struct, frozen=True):
    """A maker's CA that the tenant trusts to certify endorsement keys."""

    sha256: str
    subject: str
    ek_type: EkType
    not_after: datetime
    added_at: datetime


class AllowedEk(msgspec.Struct, frozen=True):
    """A chip that the tenant admits as `attested` without an endorsement certificate."""

    ek_name: str
    note: str
    added_at: datetime


class TenantTrust(msgspec.Struct, frozen=True):
    """`GET /v1/tenants/{id}/trust`: the hardware that the tenant trusts."""

    tenant: TenantId
    tiers: tuple[Tier, ...]
    ek_roots: tuple[EkRoot, ...]
    ek_allowed: tuple[AllowedEk, ...]


# Activation codes.


class LeaseTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dates of a lease, in seconds after its issue. Each must be at least as late as the date before it."""

    refresh_after_seconds: int
    expires_seconds: int
    grace_seconds: int
    terminate_seconds: int


class CreateCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{id}/codes` -> 201 CreatedCode.

    `lease` replaces the tier's default dates of leases. With `readmit_node` the code activates this revoked node only.
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
    """A new code and its text, `secret`. The text is shown once; Fabric stores its hash only."""

    code: Code
    secret: str


# Nodes.


class ChangeStanding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/nodes/{id}/{suspend,resume,revoke,release}` -> 200 Node. The body may be `{}`.

    A repeat changes nothing. 409 `conflict` if the node's standing does not allow the change. The reason of a
    suspension is part of the signed statement that the node gets. Operators see the reason of a revocation or release
    as `standing_reason`; the node does not get it. The audit records every reason.
    """

    reason: str = ""


class Node(msgspec.Struct, frozen=True):
    """`GET /v1/nodes?tenant=&standing=` -> Page[Node].

    `generation` is the current, confirmed generation; 0 before the first confirm. `last_generation` is the newest one,
    confirmed or not. `closing`: Fabric has closed generations that Breakwater has not closed yet. `code` is the code
    that gave the seat. `lease_until` is the latest `terminate_at` of any lease signed for the node.
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
    """One activation of a node: state, certificate end, and its current statement.

    `statement` is the type of the current statement, empty before the first. `told_at` is the time when the node first
    received its revocation as the answer to a session request. `seen_at` is the time of the last session.
    """

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
    """`GET /v1/nodes/{id}`: a node with its generations, the newest first, at most 20."""

    node: Node
    generations: tuple[Generation, ...]


# Published trust, its adoption, and the order to renew device certificates.


class PublishTrust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/trust/targets` -> 200 Trust. Publishes files that the holders of the offline keys have signed.

    `roots` are new root files in the order of their versions. `targets` is the file targets.json; leave it empty to
    publish roots only. `contents` are the target files by name; files that Fabric stores already may be omitted.
    A repeat of the same bytes changes nothing. 422 `trust_refused` if a file fails a check. 409 `adoption_incomplete`
    if a node or service still uses a root or issuer that would be dropped; `override` with a `reason` publishes anyway.
    """

    roots: tuple[bytes, ...] = ()
    targets: bytes = b""
    contents: dict[str, bytes] = {}
    override: bool = False
    reason: str = ""


class Trust(msgspec.Struct, frozen=True):
    """Versions and expiry times of the root and the targets that are published now."""

    targets_version: int
    targets_expire_at: datetime
    root_version: int
    root_expires_at: datetime


class IssuerAdoption(msgspec.Struct, frozen=True):
    """Number of nodes whose last shown device certificate is from one CA.

    `key_id` is that CA's key id; empty for nodes that have shown no device certificate yet. `published`: the CA is in
    the published bundle. `sessions_until`: after this time every session certificate from the CA has expired.
    """

    key_id: str
    subject: str
    published: bool
    nodes: int
    sessions_until: datetime | None


class ServiceAdoption(msgspec.Struct, frozen=True):
    """The CA of a service's TLS certificate.

    `issuer` is the key id of the published CA that issued the certificate; empty if no published CA did. For Breakwater
    it is the certificate that Fabric saw at its last connection. `trust_version` is set for Fabric only, because
    Breakwater does not use the published trust.
    """

    name: str
    issuer: str
    published: bool
    trust_version: int | None = None


class RenewDevices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/trust/renew-devices` -> 200 RenewalOrder. Nodes renew their device certificates made before `after`.

    Without `after` the time is now. Fabric wakes the nodes one after the other over `spread_seconds`. Without
    `spread_seconds` it wakes 50 nodes a second.
    """

    after: datetime | None = None
    reason: str = ""
    spread_seconds: int | None = None


class RenewalOrder(msgspec.Struct, frozen=True):
    """An order to renew device certificates made before `after`. `woken` of about `nodes` nodes have been woken.

    `done`: every active node has been woken.
    """

    after: datetime
    reason: str
    set_at: datetime
    spread_seconds: int
    nodes: int
    woken: int
    done: bool


class Adoption(msgspec.Struct, frozen=True):
    """`GET /v1/trust/adoption`: which nodes and services use which trust.

    `nodes` is the number of nodes with an open confirmed generation. `adopted` of them have reported `trust_version`,
    the version of the published targets.
    """

    trust_version: int
    nodes: int
    adopted: int
    issuers: tuple[IssuerAdoption, ...]
    services: tuple[ServiceAdoption, ...]
    renewal: RenewalOrder | None


class NodeAdoption(msgspec.Struct, frozen=True):
    """`GET /v1/trust/adoption/nodes?issuer=` -> Page[NodeAdoption].

    Without `issuer`: nodes whose reported trust version is older than the published one. With `issuer`: nodes whose
    device certificate is from the CA with that key id. `issuer=none`: nodes that have shown no device certificate yet.
    """

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
    """A new token and its text, `secret`. The text is shown once; Fabric stores its hash only."""

    token: Token
    secret: str


# Audit.


class AuditEntry(msgspec.Struct, frozen=True):
    """`GET /v1/audit?tenant=&object=&action=` -> Page[AuditEntry], newest first.

    `actor` is `operator:<token id>`, the SPIFFE id of a node, `anonymous` or `system`.
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
