"""Routes: whether the process runs, and whether it can serve."""

from collections.abc import Awaitable, Callable

from litestar import get

from cloud.fabric import schemas
from cloud.http.admission import PROBES
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import operation_options
from cloud.http.problems import Refusal
from cloud.storage import StorageError

Ready = Callable[[], Awaitable[object]]
"""Makes a small query. Raises StorageError."""


@get("/healthz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def healthz() -> schemas.Health:
    """Check that the process answers."""
    return schemas.Health("ok")


@get("/readyz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def readyz(ready: Wired[Ready]) -> schemas.Health:
    """Check that the database answers.

    Breakwater is not checked: leases are refreshed and operators work without it.
    """
    try:
        await ready()
    except StorageError as error:
        raise Refusal("unavailable", "the database cannot be used") from error
    return schemas.Health("ok")


HANDLERS = (healthz, readyz)
