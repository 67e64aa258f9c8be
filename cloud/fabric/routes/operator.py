"""Routes: tenants, activation codes, nodes, tokens and audit, for operators with a bearer token."""

from typing import Annotated, Any, get_args

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.fabric import schemas
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.routes.access import (
    FILTER_CHARS_MAX,
    Cursor,
    DryRun,
    InTenant,
    Limit,
    OfCode,
    OfNode,
    OfTenant,
    OfToken,
    code_id,
    filter_by,
    node_id,
    tenant_id,
    token_id,
)
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.operators.audit_lists import AuditLists
from cloud.fabric.service.operators.codes import Codes
from cloud.fabric.service.operators.node_lists import NodeLists
from cloud.fabric.service.operators.standing import Standings
from cloud.fabric.service.operators.tenants import Tenants
from cloud.fabric.service.operators.tokens import Tokens
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.conditions import tagged
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]
WithStanding = Annotated[
    str,
    QueryParameter(
        max_length=FILTER_CHARS_MAX,
        pattern=PRINTABLE,
        description="A standing. Empty for every standing.",
        schema_extra={"enum": ["", *get_args(schemas.Standing)]},
    ),
]
OfObject = Annotated[str, filter_by("Id of an object. Empty for all objects.", name="object")]
OfAction = Annotated[str, filter_by("Name of an action. Empty for all actions.")]
OfRequest = Annotated[str, filter_by("Id of a request. Empty for all requests.", name="request")]


@post(
    "/v1/tenants",
    status_code=201,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(Invalid,)),
)
async def create_tenant(
    data: JSONBody[schemas.CreateTenant], request: Asked, tenants: Wired[Tenants]
) -> schemas.Tenant:
    """Create a tenant.

    The new tenant admits machines of the tier `attested` and trusts no TPM maker yet.
    """
    return await tenants.create(current_operator(request), data)


@get(
    "/v1/tenants",
    opt=operation_options(
        OPERATOR,
        bucket=READ,
        refuses=(
            "cursor_foreign",
            Invalid,
        ),
    ),
)
async def list_tenants(
    request: Asked,
    tenants: Wired[Tenants],
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.Tenant]:
    """List tenants, the oldest first."""
    return signed_page(request, await tenants.page(own_cursor(request, cursor), limit))


@get(
    "/v1/tenants/{tenant:str}", after_request=tagged, opt=operation_options(OPERATOR, bucket=READ, refuses=(NotFound,))
)
async def show_tenant(tenant: OfTenant, tenants: Wired[Tenants]) -> schemas.Tenant:
    """Show a tenant."""
    return await tenants.show(tenant_id(tenant))


@post(
    "/v1/tenants/{tenant:str}/codes",
    status_code=201,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Invalid, Conflict)),
)
async def create_code(
    tenant: OfTenant, data: JSONBody[schemas.CreateCode], request: Asked, codes: Wired[Codes]
) -> schemas.CreatedCode:
    """Create an activation code.

    The text of the code is in this answer and nowhere else.
    """
    return await codes.create(current_operator(request), tenant_id(tenant), data)


@get(
    "/v1/tenants/{tenant:str}/codes",
    opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", NotFound, Invalid)),
)
async def list_codes(
    request: Asked,
    tenant: OfTenant,
    codes: Wired[Codes],
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.Code]:
    """List the activation codes of a tenant, the oldest first."""
    return signed_page(request, await codes.page(tenant_id(tenant), own_cursor(request, cursor), limit))


@post(
    "/v1/codes/{code:str}/revoke", status_code=200, opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound,))
)
async def revoke_code(code: OfCode, request: Asked, codes: Wired[Codes], dry_run: DryRun = False) -> schemas.Code:
    """Revoke an activation code.

    No machine activates with it from now on. Nodes that it activated stay. A repeat changes nothing.
    """
    return await codes.revoke(current_operator(request), code_id(code), dry_run=dry_run)


@get("/v1/nodes", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound)))
async def list_nodes(
    request: Asked,
    node_lists: Wired[NodeLists],
    tenant: InTenant = "",
    standing: WithStanding = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.Node]:
    """List nodes, the oldest first."""
    return signed_page(request, await node_lists.page(tenant, standing, own_cursor(request, cursor), limit))


@get("/v1/nodes/{node:str}", after_request=tagged, opt=operation_options(OPERATOR, bucket=READ, refuses=(NotFound,)))
async def show_node(node: OfNode, node_lists: Wired[NodeLists]) -> schemas.NodeDetail:
    """Show a node with its newest generations."""
    return await node_lists.detail(node_id(node))


_STANDING = operation_options(OPERATOR, bucket=READ, refuses=(NotFound, Conflict, Invalid))


@post("/v1/nodes/{node:str}/suspend", status_code=200, opt=_STANDING)
async def suspend_node(
    node: OfNode,
    data: JSONBody[schemas.ChangeStanding],
    request: Asked,
    standings: Wired[Standings],
    dry_run: DryRun = False,
) -> schemas.Node:
    """Suspend a node: its workloads stop until it is resumed.

    The node gets a signed suspension with the reason. A repeat changes nothing.
    """
    return await standings.change(current_operator(request), node_id(node), "suspend", data.reason, dry_run=dry_run)


@post("/v1/nodes/{node:str}/resume", status_code=200, opt=_STANDING)
async def resume_node(
    node: OfNode,
    data: JSONBody[schemas.ChangeStanding],
    request: Asked,
    standings: Wired[Standings],
    dry_run: DryRun = False,
) -> schemas.Node:
    """Resume a suspended node with a new lease.

    A repeat changes nothing.
    """
    return await standings.change(current_operator(request), node_id(node), "resume", data.reason, dry_run=dry_run)


@post("/v1/nodes/{node:str}/revoke", status_code=200, opt=_STANDING)
async def revoke_node(
    node: OfNode,
    data: JSONBody[schemas.ChangeStanding],
    request: Asked,
    standings: Wired[Standings],
    dry_run: DryRun = False,
) -> schemas.Node:
    """Revoke a node: its licence and its certificates end for good.

    Only a code with `readmit_node` activates the machine again. A repeat changes nothing.
    """
    return await standings.change(current_operator(request), node_id(node), "revoke", data.reason, dry_run=dry_run)


@post("/v1/nodes/{node:str}/release", status_code=200, opt=_STANDING)
async def release_node(
    node: OfNode,
    data: JSONBody[schemas.ChangeStanding],
    request: Asked,
    standings: Wired[Standings],
    dry_run: DryRun = False,
) -> schemas.Node:
    """Release a node: its licence ends and its seat is free again.

    A repeat changes nothing.
    """
    return await standings.change(current_operator(request), node_id(node), "release", data.reason, dry_run=dry_run)


@post("/v1/tokens", status_code=201, opt=operation_options(OPERATOR, bucket=WRITE, refuses=(Invalid,)))
async def create_token(
    data: JSONBody[schemas.CreateToken], request: Asked, tokens: Wired[Tokens]
) -> schemas.CreatedToken:
    """Create an operator's token.

    The text of the token is in this answer and nowhere else.
    """
    return await tokens.create(current_operator(request), data)


@get(
    "/v1/tokens",
    opt=operation_options(
        OPERATOR,
        bucket=READ,
        refuses=(
            "cursor_foreign",
            Invalid,
        ),
    ),
)
async def list_tokens(
    request: Asked,
    tokens: Wired[Tokens],
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.Token]:
    """List operators' tokens, the oldest first."""
    return signed_page(request, await tokens.page(own_cursor(request, cursor), limit))


@post(
    "/v1/tokens/{token:str}/revoke",
    status_code=200,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Conflict)),
)
async def revoke_token(token: OfToken, request: Asked, tokens: Wired[Tokens]) -> schemas.Token:
    """Revoke an operator's token.

    Fabric refuses the token from the next request on. A token cannot revoke itself. A repeat changes nothing.
    """
    return await tokens.revoke(current_operator(request), token_id(token))


@get("/v1/audit", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound)))
async def list_audit(
    request: Asked,
    audit_lists: Wired[AuditLists],
    tenant: InTenant = "",
    subject: OfObject = "",
    action: OfAction = "",
    of_request: OfRequest = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.AuditEntry]:
    """List audit entries, the newest first."""
    return signed_page(
        request, await audit_lists.page(tenant, subject, action, own_cursor(request, cursor), limit, of_request)
    )


HANDLERS = (
    create_tenant,
    list_tenants,
    show_tenant,
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
