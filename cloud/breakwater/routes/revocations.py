"""Route: the feed of revoked services' certificates, for every service."""

from typing import Annotated

from litestar import get
from litestar.params import QueryParameter

from cloud.breakwater.revocation.feed import RevocationFeed
from cloud.contracts.breakwater import PATH_REVOCATIONS, Revocations
from cloud.http.app import Wired
from cloud.http.guard import service
from protocol.ids import SERVICE_NAMES
from protocol.limits import EVENT_WAIT_SECONDS_MAX

CURSOR_MAX = 2**63 - 1
KEY_ID_CHARS_MAX = 128


@get(PATH_REVOCATIONS, opt={"peers": tuple(service(name) for name in SERVICE_NAMES)})
async def revocations(
    feed: Wired[RevocationFeed],
    cursor: Annotated[int, QueryParameter(ge=0, le=CURSOR_MAX)] = 0,
    wait: Annotated[int, QueryParameter(ge=0, le=EVENT_WAIT_SECONDS_MAX)] = 0,
    issuer: Annotated[str | None, QueryParameter(max_length=KEY_ID_CHARS_MAX)] = None,
) -> Revocations:
    """What was revoked after `cursor`: at once, after a revocation, or nothing after `wait` seconds.

    With `issuer` also at once when Breakwater has its own certificate of another CA than that one.
    """
    return await feed.after(cursor, wait, issuer)


HANDLERS = (revocations,)
