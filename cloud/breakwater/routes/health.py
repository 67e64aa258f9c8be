"""Routes: whether the process runs, and whether it can issue."""

import msgspec
from litestar import get

from cloud.http.admission import PROBES
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import operation_options
from cloud.http.readiness import Readiness


class Health(msgspec.Struct, frozen=True):
    """State of the service."""

    status: str
    """`ok`, or `ready` for the check that it can issue."""


@get("/healthz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def healthz() -> Health:
    """Check that the process answers."""
    return Health("ok")


@get("/readyz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def readyz(readiness: Wired[Readiness]) -> Health:
    """Check that the service can issue.

    The database stores rows, the CA keys can be used, and the service's certificate is valid.
    """
    await readiness.require()
    return Health("ready")


HANDLERS = (healthz, readyz)
