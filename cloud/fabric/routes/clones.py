"""Routes: suspected clones, for operators with a bearer token."""

from typing import Any

from litestar import Request, get, post, put
from litestar.params import JSONBody

from cloud.fabric import schemas
from cloud.fabric.bodies.clones import CloneCase, SetClonePolicy, SettleClone
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.routes.access import Cursor, DryRun, InTenant, Limit, OfNode, OfTenant, node_id, tenant_id
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.operators.clone_cases import CloneCases
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.conditions import if_match_of, tagged
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]


@get("/v1/clones", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound)))
async def list_clones(
    request: Asked,
    clone_cases: Wired[CloneCases],
    tenant: InTenant = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[CloneCase]:
    """List the nodes of which a clone is suspected, the oldest first, with the evidence of every holder."""
    return signed_page(request, await clone_cases.page(tenant, own_cursor(request, cursor), limit))


@get(
    "/v1/nodes/{node:str}/clones",
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=READ, refuses=(NotFound,)),
)
async def show_clones(node: OfNode, clone_cases: Wired[CloneCases]) -> CloneCase:
    """Show the holders of a node's key, whether or not a clone is suspected."""
    return await clone_cases.show(node_id(node))


@post(
    "/v1/nodes/{node:str}/settle",
    status_code=200,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Conflict)),
)
async def settle_clones(
    node: OfNode, data: JSONBody[SettleClone], request: Asked, clone_cases: Wired[CloneCases]
) -> CloneCase:
    """Keep one holder of a node's key, and end the suspicion.

    The holder that is kept gets an ordinary lease. Every other holder gets a signed suspension at its next session. A
    repeat changes nothing. Another holder can be kept later.
    """
    return await clone_cases.settle(current_operator(request), node_id(node), data)


@put(
    "/v1/tenants/{tenant:str}/clone-policy",
    status_code=200,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound,)),
)
async def set_clone_policy(
    tenant: OfTenant,
    data: JSONBody[SetClonePolicy],
    request: Asked,
    clone_cases: Wired[CloneCases],
    dry_run: DryRun = False,
) -> schemas.Tenant:
    """Set what follows when a clone of a tenant's node is suspected.

    Suspicions that are there stay as they are.
    """
    return await clone_cases.set_policy(
        current_operator(request), tenant_id(tenant), data, if_match_of(request), dry_run=dry_run
    )


HANDLERS = (list_clones, show_clones, settle_clones, set_clone_policy)
