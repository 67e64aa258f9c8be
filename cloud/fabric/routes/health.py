"""Whether the process lives, and whether it can serve."""

from typing import Any

from litestar import Request, get

from cloud.fabric import schemas
from cloud.fabric.routes.access import core_of
from cloud.fabric.service import health
from cloud.http.guard import ANONYMOUS
from cloud.http.problems import Refusal
from cloud.storage import StorageError


@get("/healthz", opt={"peers": (ANONYMOUS,)})
async def healthz() -> schemas.Health:
    """The process answers."""
    return schemas.Health("ok")


@get("/readyz", opt={"peers": (ANONYMOUS,)})
async def readyz(request: Request[Any, Any, Any]) -> schemas.Health:
    """Fabric can serve."""
    try:
        await health.ready(core_of(request))
    except StorageError as error:
        raise Refusal("unavailable", "the database cannot be used") from error
    return schemas.Health("ok")


HANDLERS = (healthz, readyz)
