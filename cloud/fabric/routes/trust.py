"""Routes: operators publish trust that was signed offline, follow its adoption, and order renewals."""

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody

from cloud.fabric import errors, schemas
from cloud.fabric.routes.access import Cursor, DryRun, Limit, filter_by
from cloud.fabric.routes.buckets import READ, WRITE
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.service.published_trust.publishing import Publishing
from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.conditions import tagged
from cloud.http.cursors import own_cursor, signed_page
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.openapi import operation_options

Asked = Request[Any, Any, Any]
OfIssuer = Annotated[
    str,
    filter_by(
        "Key id of a CA: list the nodes whose device certificate it issued. `none`: nodes that have shown "
        "no device certificate. Without it: nodes that report an older trust than the published one."
    ),
]


@get("/v1/trust", after_request=tagged, opt=operation_options(OPERATOR, bucket=READ, refuses=(errors.Conflict,)))
async def show_published_trust(publishing: Wired[Publishing]) -> schemas.Trust:
    """Show the versions of the published trust."""
    return await publishing.published()


@post(
    "/v1/trust/targets",
    status_code=200,
    after_request=tagged,
    opt=operation_options(
        OPERATOR,
        bucket=WRITE,
        refuses=(errors.Invalid, errors.TrustRefused, errors.AdoptionIncomplete, errors.Conflict),
    ),
)
async def publish_trust(
    data: JSONBody[schemas.PublishTrust], request: Asked, publishing: Wired[Publishing], dry_run: DryRun = False
) -> schemas.Trust:
    """Publish roots and targets that were signed offline.

    A repeat of the same bytes changes nothing. Fabric refuses to drop a root or an issuer that nodes still use, except
    with `override` and a reason.
    """
    return await publishing.publish(current_operator(request), data, dry_run=dry_run)


@get("/v1/trust/adoption", opt=operation_options(OPERATOR, bucket=READ))
async def show_adoption(adoption: Wired[Adoption]) -> schemas.Adoption:
    """Show how many nodes have reported the published trust."""
    return await adoption.show()


@get(
    "/v1/trust/adoption/nodes",
    opt=operation_options(
        OPERATOR,
        bucket=READ,
        refuses=(
            "cursor_foreign",
            errors.Invalid,
        ),
    ),
)
async def list_adoption(
    request: Asked,
    adoption: Wired[Adoption],
    issuer: OfIssuer = "",
    cursor: Cursor = "",
    limit: Limit = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.NodeAdoption]:
    """List nodes that have not adopted the published trust, or nodes by the issuer of their device certificate."""
    return signed_page(request, await adoption.nodes(issuer, own_cursor(request, cursor), limit))


@post(
    "/v1/trust/renew-devices", status_code=200, opt=operation_options(OPERATOR, bucket=WRITE, refuses=(errors.Invalid,))
)
async def renew_devices(
    data: JSONBody[schemas.RenewDevices], request: Asked, renewal_orders: Wired[RenewalOrders]
) -> schemas.RenewalOrder:
    """Order the renewal of older device certificates.

    A later order replaces an earlier one.
    """
    return await renewal_orders.give(current_operator(request), data)


HANDLERS = (show_published_trust, publish_trust, show_adoption, list_adoption, renew_devices)
