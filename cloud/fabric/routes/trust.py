"""Routes: published trust. Operators publish what was signed offline, see who works by it, and order renewals."""

from typing import Any

from litestar import Request, get, post
from litestar.params import FromQuery, JSONBody

from cloud.fabric import schemas
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.service.published_trust.publishing import Publishing
from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.app import Wired
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.guard import PEERS as OPT

Asked = Request[Any, Any, Any]
ADMITTED = {OPT: (OPERATOR,)}


@get("/v1/trust", opt=ADMITTED)
async def show_published(publishing: Wired[Publishing]) -> schemas.Trust:
    """What is published now."""
    return await publishing.published()


@post("/v1/trust/targets", status_code=200, opt=ADMITTED)
async def publish_targets(
    data: JSONBody[schemas.PublishTrust], request: Asked, publishing: Wired[Publishing]
) -> schemas.Trust:
    """Publish what the offline holders have signed."""
    return await publishing.publish(current_operator(request), data)


@get("/v1/trust/adoption", opt=ADMITTED)
async def show_adoption(adoption: Wired[Adoption]) -> schemas.Adoption:
    """Who works by it."""
    return await adoption.show()


@get("/v1/trust/adoption/nodes", opt=ADMITTED)
async def list_adoption(
    adoption: Wired[Adoption],
    issuer: FromQuery[str] = "",
    cursor: FromQuery[str] = "",
    limit: FromQuery[int] = PAGE_ITEMS_DEFAULT,
) -> schemas.Page[schemas.NodeAdoption]:
    """Who does not yet."""
    return await adoption.nodes(issuer, cursor, limit)


@post("/v1/trust/renew-devices", status_code=200, opt=ADMITTED)
async def renew_devices(
    data: JSONBody[schemas.RenewDevices], request: Asked, renewal_orders: Wired[RenewalOrders]
) -> schemas.RenewalOrder:
    """Have older device certificates renewed."""
    return await renewal_orders.give(current_operator(request), data)


HANDLERS = (show_published, publish_targets, show_adoption, list_adoption, renew_devices)
