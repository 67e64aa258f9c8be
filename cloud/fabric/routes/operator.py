"""Routes: what operators ask and command, with a bearer token."""

from typing import Annotated, Any

from litestar import Request, get, post, put
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from cloud.fabric import schemas
from cloud.fabric.routes.access import code_id, node_id, tenant_id, token_id
from cloud.fabric.service.operators.audit_lists import AuditLists
from cloud.fabric.service.operators.codes import Codes
from cloud.fabric.service.operators.node_lists import NodeLists
from cloud.fabric.service.operators.standing import Standings
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.service.operators.tokens import Tokens
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.guard import PEERS as OPT

Asked = Request[Any, Any, Any]
ADMITTED = {OPT: (OPERATOR,)}


@post("/v1/tenants", status_code=201, opt=ADMITTED)
async def create_tenant(
    data: JSONBody[schemas.CreateTenant], request: Asked, tenants: Wired[Tenants]
) -> schemas.Tenant:
    """A new tenant."""
    return await tenants.create(current_operator(request), data)


@get("/v1/tenants", opt=ADMITTED)
async def list_tenants(
    tenants: Wired[Tenants], cursor: FromQuery[str] = "", limit: FromQuery[int] = PAGE_ITEMS_DEFAULT
) -> schemas.Page[schemas.Tenant]:
    """All tenants, the oldest first."""
    return await tenants.page(cursor, limit)


@get("/v1/tenants/{tenant:str}", opt=ADMITTED)
async def show_tenant(tenant: FromPath[str], tenants: Wired[Tenants]) -> schemas.Tenant:
    """One tenant."""
    return await tenants.show(tenant_id(tenant))


@get("/v1/tenants/{tenant:str}/trust", opt=ADMITTED)
async def show_trust(tenant: FromPath[str], tenants: Wired[Tenants]) -> schemas.TenantTrust:
    """Which hardware a tenant trusts."""
    return await tenants.trust(tenant_id(tenant))


@post("/v1/tenants/{tenant:str}/trust/ek-roots", status_code=200, opt=ADMITTED)
async def add_ek_roots(
    tenant: FromPath[str], data: JSONBody[schemas.AddEkRoots], request: Asked, tenants: Wired[Tenants]
) -> schemas.TenantTrust:
    """Trust makers' CAs."""
    return await tenants.add_ek_roots(current_operator(request), tenant_id(tenant), data)


@post("/v1/tenants/{tenant:str}/trust/ek-allowed", status_code=200, opt=ADMITTED)
async def allow_ek(
    tenant: FromPath[str], data: JSONBody[schemas.AllowEk], request: Asked, tenants: Wired[Tenants]
) -> schemas.TenantTrust:
    """Count one chip as attested."""
    return await tenants.allow_ek(current_operator(request), tenant_id(tenant), data)


@put("/v1/tenants/{tenant:str}/trust/tiers", status_code=200, opt=ADMITTED)
async def set_tiers(
    tenant: FromPath[str], data: JSONBody[schemas.SetTiers], request: Asked, tenants: Wired[Tenants]
) -> schemas.TenantTrust:
    """Which tiers the tenant admits."""
    return await tenants.set_tiers(current_operator(request), tenant_id(tenant), data)


@post("/v1/tenants/{tenant:str}/codes", status_code=201, opt=ADMITTED)
async def create_code(
    tenant: FromPath[str], data: JSONBody[schemas.CreateCode], request: Asked, codes: Wired[Codes]
) -> schemas.CreatedCode:
    """A new activation code; its text is in this answer and nowhere else."""
    return await codes.create(current_operator(request), tenant_id(tenant), data)


@get("/v1/tenants/{tenant:str}/codes", opt=ADMITTED)
async def list_codes(
    tenant: FromPath[str], codes: Wired[Codes], cursor: FromQuery[str] = "", limit: FromQuery[int] = PAGE_ITEMS_DEFAULT
) -> schemas.Page[schemas.Code]:
    """A tenant's codes, the oldest first."""
    return await codes.page(tenant_id(tenant), cursor, limit)


@post("/v1/codes/{code:str}/revoke", status_code=200, opt=ADMITTED)
async def revoke_code(code: FromPath[str], request: Asked, codes: Wired[Codes]) -> schemas.Code:
    """Take a code back."""
    return await codes.revoke(current_operator(request), code_id(code))


@get("/v1/nodes", opt=ADMITTED)
async def list_nodes(
    node_lists: Wired[NodeLists],
    tenant: FromQuery[str] = "",
    standing: FromQuery[str] = "",
    cursor: FromQuery[str] = "",
    limit: FromQuery[int] = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.Node]:
    """Nodes, the oldest first."""
    return await node_lists.page(tenant, standing, cursor, limit)


@get("/v1/nodes/{node:str}", opt=ADMITTED)
async def show_node(node: FromPath[str], node_lists: Wired[NodeLists]) -> schemas.NodeDetail:
    """One node with its newest generations."""
    return await node_lists.detail(node_id(node))


@post("/v1/nodes/{node:str}/suspend", status_code=200, opt=ADMITTED)
async def suspend_node(
    node: FromPath[str], data: JSONBody[schemas.ChangeStanding], request: Asked, standings: Wired[Standings]
) -> schemas.Node:
    """Stop its workloads until it is resumed."""
    return await standings.change(current_operator(request), node_id(node), "suspend", data.reason)


@post("/v1/nodes/{node:str}/resume", status_code=200, opt=ADMITTED)
async def resume_node(
    node: FromPath[str], data: JSONBody[schemas.ChangeStanding], request: Asked, standings: Wired[Standings]
) -> schemas.Node:
    """End a suspension with a new lease."""
    return await standings.change(current_operator(request), node_id(node), "resume", data.reason)


@post("/v1/nodes/{node:str}/revoke", status_code=200, opt=ADMITTED)
async def revoke_node(
    node: FromPath[str], data: JSONBody[schemas.ChangeStanding], request: Asked, standings: Wired[Standings]
) -> schemas.Node:
    """End its licence and its certificates for good."""
    return await standings.change(current_operator(request), node_id(node), "revoke", data.reason)


@post("/v1/nodes/{node:str}/release", status_code=200, opt=ADMITTED)
async def release_node(
    node: FromPath[str], data: JSONBody[schemas.ChangeStanding], request: Asked, standings: Wired[Standings]
) -> schemas.Node:
    """Hand its seat back."""
    return await standings.change(current_operator(request), node_id(node), "release", data.reason)


@post("/v1/tokens", status_code=201, opt=ADMITTED)
async def create_token(
    data: JSONBody[schemas.CreateToken], request: Asked, tokens: Wired[Tokens]
) -> schemas.CreatedToken:
    """A new operator's token; its text is in this answer and nowhere else."""
    return await tokens.create(current_operator(request), data)


@get("/v1/tokens", opt=ADMITTED)
async def list_tokens(
    tokens: Wired[Tokens], cursor: FromQuery[str] = "", limit: FromQuery[int] = PAGE_ITEMS_DEFAULT
) -> schemas.Page[schemas.Token]:
    """All tokens, the oldest first."""
    return await tokens.page(cursor, limit)


@post("/v1/tokens/{token:str}/revoke", status_code=200, opt=ADMITTED)
async def revoke_token(token: FromPath[str], request: Asked, tokens: Wired[Tokens]) -> schemas.Token:
    """Take a token back."""
    return await tokens.revoke(current_operator(request), token_id(token))


@get("/v1/audit", opt=ADMITTED)
async def list_audit(
    audit_lists: Wired[AuditLists],
    tenant: FromQuery[str] = "",
    subject: Annotated[str, QueryParameter(name="object")] = "",
    action: FromQuery[str] = "",
    cursor: FromQuery[str] = "",
    limit: FromQuery[int] = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.AuditEntry]:
    """Who did what, the newest first."""
    return await audit_lists.page(tenant, subject, action, cursor, limit)


HANDLERS = (
    create_tenant,
    list_tenants,
    show_tenant,
    show_trust,
    add_ek_roots,
    allow_ek,
    set_tiers,
    create_code,
    list_codes,
    revoke_code,
    list_nodes,
    show_node,
    suspend_node,
    resume_node,
    revoke_node,
    release_node,
    create_token,
    list_tokens,
    revoke_token,
    list_audit,
)
