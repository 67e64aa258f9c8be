"""Routes: the change feed and the snapshot, for every service. Each producer has both."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.params import QueryParameter

from cloud.contracts.events import PATH_CHANGES, PATH_SNAPSHOT, SUBJECT_CHARS_MAX, Changes, SnapshotPage
from cloud.events.cursor import CURSOR_CHARS_MAX
from cloud.events.encoding import EVENTS_MAX
from cloud.events.feed import ChangeFeed
from cloud.events.snapshot import Snapshots
from cloud.http.admission import SERVICES
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.exchange import long_poll
from cloud.http.guard import service
from cloud.http.openapi import Tag, operation_options
from protocol.ids import SERVICE_NAMES
from protocol.limits import EVENT_WAIT_SECONDS_MAX

TAG = Tag("events", "Services learn what has changed.", (PATH_CHANGES, PATH_SNAPSHOT))
"""The tag of the routes, for the API documents."""
_PEERS = tuple(service(name) for name in SERVICE_NAMES)

Place = Annotated[
    str,
    QueryParameter(
        max_length=CURSOR_CHARS_MAX,
        pattern=PRINTABLE,
        description="`cursor` of the answer before, or of a snapshot. Empty for the beginning of the feed.",
    ),
]
Wait = Annotated[
    int,
    QueryParameter(
        ge=0, le=EVENT_WAIT_SECONDS_MAX, description="Longest wait for an event, in seconds. 0 answers at once."
    ),
]
AfterSubject = Annotated[
    str,
    QueryParameter(
        max_length=SUBJECT_CHARS_MAX,
        pattern=PRINTABLE,
        description="`next` of the page before. Empty for the first page.",
    ),
]
EventLimit = Annotated[int, QueryParameter(ge=1, le=EVENTS_MAX, description="Most events of one page.")]


@get(
    PATH_CHANGES,
    opt=operation_options(*_PEERS, bucket=SERVICES, refuses=("cursor_foreign", "cursor_gone")),
)
async def list_changes(
    request: Request[Any, Any, Any], change_feed: Wired[ChangeFeed], cursor: Place = "", wait: Wait = 0
) -> Changes:
    """List the events after a cursor.

    The service answers at once if there are any. Otherwise it answers after the next event, or without events after
    `wait` seconds.
    """
    with long_poll(request.scope, wait):
        return await change_feed.after(cursor, wait)


@get(PATH_SNAPSHOT, opt=operation_options(*_PEERS, bucket=SERVICES))
async def read_snapshot(
    snapshots: Wired[Snapshots], after: AfterSubject = "", limit: EventLimit = EVENTS_MAX
) -> SnapshotPage:
    """Read the latest event of every object, in the order of the subjects.

    A reader reads all pages, then follows the feed from the cursor of the first page.
    """
    return await snapshots.page(after, limit)


HANDLERS = (list_changes, read_snapshot)
