"""Routes: the revocation feed, for every service."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.params import QueryParameter

from cloud.breakwater.revocation.feed import RevocationFeed
from cloud.contracts.breakwater import PATH_REVOCATIONS, Revocations
from cloud.http.admission import SERVICES
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.exchange import long_poll
from cloud.http.guard import service
from cloud.http.openapi import operation_options
from protocol.ids import SERVICE_NAMES
from protocol.limits import EVENT_WAIT_SECONDS_MAX

CURSOR_MAX = 2**63 - 1
KEY_ID_CHARS_MAX = 128
Cursor = Annotated[int, QueryParameter(ge=0, le=CURSOR_MAX, description="Position of the feed, 0 for its start.")]
Wait = Annotated[
    int,
    QueryParameter(
        ge=0, le=EVENT_WAIT_SECONDS_MAX, description="Longest wait for a revocation, in seconds. 0 answers at once."
    ),
]
OwnIssuer = Annotated[
    str | None,
    QueryParameter(
        max_length=KEY_ID_CHARS_MAX,
        pattern=PRINTABLE,
        description="Key id of the CA that issued the caller's own certificate.",
    ),
]


@get(PATH_REVOCATIONS, opt=operation_options(*(service(name) for name in SERVICE_NAMES), bucket=SERVICES))
async def list_revocations(
    request: Request[Any, Any, Any],
    feed: Wired[RevocationFeed],
    cursor: Cursor = 0,
    wait: Wait = 0,
    issuer: OwnIssuer = None,
) -> Revocations:
    """List services' certificates that were revoked after a position of the feed.

    Breakwater answers at once if there are any. Otherwise it answers after a revocation, or without entries after
    `wait` seconds. With `issuer` it answers at once also if another CA issued Breakwater's own certificate.
    """
    with long_poll(request.scope, wait):
        return await feed.after(cursor, wait, issuer)


HANDLERS = (list_revocations,)
