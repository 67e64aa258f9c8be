"""Routes: what operators do after a restore of the cloud, and after the loss of its database."""

from typing import Annotated, Any, get_args

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.fabric import schemas
from cloud.fabric.bodies.restored import (
    AcceptNode,
    BeginRebuild,
    ChangeRebuild,
    ImportClosed,
    Rebuild,
    Reconcile,
    Reconciliation,
    Waiting,
)
from cloud.fabric.errors import Conflict, Invalid, IssuerRefused, IssuerUnavailable, NotFound
from cloud.fabric.routes.access import FILTER_CHARS_MAX, Cursor, InTenant, Limit, OfNode, node_id
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.audit_log import operator_actor
from cloud.fabric.service.restored.holds import Holds
from cloud.fabric.service.restored.rebuilding import Rebuilds
from cloud.fabric.service.restored.reconciling import Reconciling
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.conditions import tagged
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]
OfState = Annotated[
    str,
    QueryParameter(
        name="state",
        max_length=FILTER_CHARS_MAX,
        pattern=PRINTABLE,
        description="State of the nodes.",
        schema_extra={"enum": [*get_args(Waiting)]},
    ),
]


@post(
    "/v1/reconcile",
    status_code=200,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(IssuerUnavailable, IssuerRefused)),
)
async def reconcile_generations(
    data: JSONBody[Reconcile], request: Asked, reconciling: Wired[Reconciling]
) -> Reconciliation:
    """Compare the generations of all nodes with those of Breakwater, and bring each side up to the other.

    A repeat changes nothing. Fabric does the same by itself after a restore of one of the two databases.
    """
    return await reconciling.run(operator_actor(current_operator(request)), dry_run=data.dry_run)


@get("/v1/holds", opt=operation_options(OPERATOR, bucket=READ, refuses=("cursor_foreign", Invalid, NotFound)))
async def list_holds(
    request: Asked,
    holds: Wired[Holds],
    waiting: OfState = "conflicting",
    tenant: InTenant = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.Node]:
    """List the nodes that get no new lease after a restore or a rebuild, the oldest first."""
    return signed_page(request, await holds.page(waiting, tenant, own_cursor(request, cursor), limit))


@post(
    "/v1/nodes/{node:str}/accept",
    status_code=200,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(NotFound, Conflict, Invalid)),
)
async def accept_node(node: OfNode, data: JSONBody[AcceptNode], request: Asked, holds: Wired[Holds]) -> schemas.Node:
    """Accept a node that gets no new lease after a restore or a rebuild.

    The node gets leases as usual from now on. A repeat changes nothing.
    """
    return await holds.accept(current_operator(request), node_id(node), data)


@get("/v1/rebuild", after_request=tagged, opt=operation_options(OPERATOR, bucket=READ))
async def show_rebuild(rebuilds: Wired[Rebuilds]) -> Rebuild:
    """Show whether a rebuild runs, and how many nodes wait for an operator."""
    return await rebuilds.show()


@post(
    "/v1/rebuild/begin",
    status_code=200,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(Invalid,)),
)
async def begin_rebuild(data: JSONBody[BeginRebuild], request: Asked, rebuilds: Wired[Rebuilds]) -> Rebuild:
    """Begin a rebuild: unknown nodes are reconstructed from their certificates and statements.

    A repeat changes nothing.
    """
    return await rebuilds.begin(current_operator(request), data)


@post(
    "/v1/rebuild/end",
    status_code=200,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(Invalid,)),
)
async def end_rebuild(data: JSONBody[ChangeRebuild], request: Asked, rebuilds: Wired[Rebuilds]) -> Rebuild:
    """End the rebuild: unknown nodes are refused again.

    Nodes that wait for an operator stay. A repeat changes nothing.
    """
    return await rebuilds.end(current_operator(request), data)


@post(
    "/v1/rebuild/closed",
    status_code=200,
    after_request=tagged,
    opt=operation_options(OPERATOR, bucket=WRITE, refuses=(Invalid,)),
)
async def import_closed(data: JSONBody[ImportClosed], request: Asked, rebuilds: Wired[Rebuilds]) -> Rebuild:
    """Import closed generations, and serial numbers of certificates in CRLs.

    They stay in force for nodes that are reconstructed later. A repeat changes nothing.
    """
    return await rebuilds.import_closed(current_operator(request), data)


HANDLERS = (
    reconcile_generations,
    list_holds,
    accept_node,
    show_rebuild,
    begin_rebuild,
    end_rebuild,
    import_closed,
)
