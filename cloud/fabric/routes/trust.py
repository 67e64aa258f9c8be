"""Published trust: operators publish what was signed offline, see who works by it, and order renewals."""

from typing import Any

from litestar import Request, get, post
from litestar.params import FromQuery, JSONBody

from cloud.fabric import schemas
from cloud.fabric.routes.access import core_of
from cloud.fabric.service.published_trust import adoption, publishing
from cloud.fabric.service.views import PAGE_ITEMS_DEFAULT
from cloud.http.guard import OPERATOR, current_operator
from cloud.http.guard import PEERS as OPT

Asked = Request[Any, Any, Any]
ADMITTED = {OPT: (OPERATOR,)}


@get("/v1/trust", opt=ADMITTED)
async def show_published(request: Asked) -> schemas.Trust:
    """What is published now."""
    return await publishing.published(core_of(request))


@post("/v1/trust/targets", status_code=200, opt=ADMITTED)
async def publish_targets(data: JSONBody[schemas.PublishTrust], request: Asked) -> schemas.Trust:
    """Publish what the offline holders have signed."""
    return await publishing.publish(core_of(request), current_operator(request), data)


@get("/v1/trust/adoption", opt=ADMITTED)
async def show_adoption(request: Asked) -> schemas.Adoption:
    """Who works by it."""
    return await adoption.show(core_of(request))


@get("/v1/trust/adoption/nodes", opt=ADMITTED)
async def list_adoption(
    request: Asked, issuer: FromQuery[str] = "", cursor: FromQuery[str] = "", limit: FromQuery[int] = PAGE_ITEMS_DEFAULT
) -> schemas.Page[schemas.NodeAdoption]:
    """Who does not yet."""
    return await adoption.nodes(core_of(request), issuer, cursor, limit)


@post("/v1/trust/renew-devices", status_code=200, opt=ADMITTED)
async def renew_devices(data: JSONBody[schemas.RenewDevices], request: Asked) -> schemas.RenewalOrder:
    """Have older device certificates renewed."""
    return await publishing.renew_devices(core_of(request), current_operator(request), data)


HANDLERS = (show_published, publish_targets, show_adoption, list_adoption, renew_devices)
