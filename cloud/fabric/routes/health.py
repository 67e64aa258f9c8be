"""Routes: whether the process runs, and whether it can serve."""

from litestar import get

from cloud.fabric import schemas
from cloud.http.admission import PROBES
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import operation_options
from cloud.http.readiness import Readiness


@get("/healthz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def healthz() -> schemas.Health:
    """Check that the process answers."""
    return schemas.Health("ok")


@get("/readyz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def readyz(readiness: Wired[Readiness]) -> schemas.Health:
    """Check that the service can serve.

    The database stores rows, and the service's certificate is valid. Fabric is ready while Breakwater cannot be
    reached, because leases are refreshed and operators work without it.
    """
    await readiness.require()
    return schemas.Health("ok")


HANDLERS = (healthz, readyz)
