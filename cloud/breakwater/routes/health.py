"""Routes: whether the process lives, and whether it can issue."""

from litestar import get

from cloud.breakwater.errors import IssuerError
from cloud.breakwater.issuance.issuing import Issuing
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.problems import Refusal
from cloud.storage import StorageError


@get("/healthz", opt={"peers": (ANONYMOUS,)})
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@get("/readyz", opt={"peers": (ANONYMOUS,)})
async def readyz(issuing: Wired[Issuing]) -> dict[str, str]:
    """Database and CA keys can be used."""
    try:
        await issuing.ready()
    except (StorageError, IssuerError) as error:
        raise Refusal("unavailable", "the database or a CA cannot be used") from error
    return {"status": "ready"}


HANDLERS = (healthz, readyz)
