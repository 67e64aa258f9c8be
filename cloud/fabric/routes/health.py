"""Routes: whether the process lives, and whether it can serve."""

from collections.abc import Awaitable, Callable

from litestar import get

from cloud.fabric import schemas
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.problems import Refusal
from cloud.storage import StorageError

Ready = Callable[[], Awaitable[object]]
"""Asks the database for something small. Raises StorageError."""


@get("/healthz", opt={"peers": (ANONYMOUS,)})
async def healthz() -> schemas.Health:
    """The process answers."""
    return schemas.Health("ok")


@get("/readyz", opt={"peers": (ANONYMOUS,)})
async def readyz(ready: Wired[Ready]) -> schemas.Health:
    """The database answers. Breakwater is not asked: refresh and operators work without it."""
    try:
        await ready()
    except StorageError as error:
        raise Refusal("unavailable", "the database cannot be used") from error
    return schemas.Health("ok")


HANDLERS = (healthz, readyz)
