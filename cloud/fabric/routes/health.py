"""Whether the process lives, and whether it can serve."""

from litestar import get

from cloud.fabric import schemas
from cloud.fabric.service import health
from cloud.http.guard import ANONYMOUS
from cloud.http.problems import Refusal
from cloud.storage import StorageError


@get("/healthz", opt={"peers": (ANONYMOUS,)})
async def healthz() -> schemas.Health:
    """The process answers."""
    return schemas.Health("ok")


@get("/readyz", opt={"peers": (ANONYMOUS,)})
async def readyz() -> schemas.Health:
    """Fabric can serve."""
    try:
        await health.ready()
    except StorageError as error:
        raise Refusal("unavailable", "the database cannot be used") from error
    return schemas.Health("ok")


HANDLERS = (healthz, readyz)
