"""The feed of revoked services' certificates, for every service."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.params import QueryParameter

from cloud.breakwater.revocation.feed import Feed
from cloud.contracts.breakwater import PATH_REVOCATIONS, Revocations
from cloud.http.guard import service
from protocol.ids import SERVICE_NAMES
from protocol.limits import EVENT_WAIT_SECONDS_MAX

CURSOR_MAX = 2**63 - 1
KEY_ID_CHARS_MAX = 128


@get(PATH_REVOCATIONS, opt={"peers": tuple(service(name) for name in SERVICE_NAMES)})
async def revocations(
    request: Request[Any, Any, Any],
    cursor: Annotated[int, QueryParameter(ge=0, le=CURSOR_MAX)] = 0,
    wait: Annotated[int, QueryParameter(ge=0, le=EVENT_WAIT_SECONDS_MAX)] = 0,
    issuer: Annotated[str | None, QueryParameter(max_length=KEY_ID_CHARS_MAX)] = None,
) -> Revocations:
    """What was revoked after `cursor`: at once, after a revocation, or nothing after `wait` seconds.

    With `issuer` also at once when Breakwater has its own certificate of another CA than that one.
    """
    feed: Feed = request.app.state["feed"]
    return await feed.after(cursor, wait, issuer)


HANDLERS = (revocations,)
