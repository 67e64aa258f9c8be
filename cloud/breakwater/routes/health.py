"""Routes: whether the process runs, and whether it can issue."""

import msgspec
from litestar import get

from cloud.breakwater.errors import IssuerError
from cloud.breakwater.issuance.issuing import Issuing
from cloud.http.admission import PROBES
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import operation_options
from cloud.http.problems import Refusal
from cloud.storage import StorageError


class Health(msgspec.Struct, frozen=True):
    """State of the service."""

    status: str
    """`ok`, or `ready` for the check that it can issue."""


@get("/healthz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def healthz() -> Health:
    """Check that the process answers."""
    return Health("ok")


@get("/readyz", opt=operation_options(ANONYMOUS, bucket=PROBES))
async def readyz(issuing: Wired[Issuing]) -> Health:
    """Check that the database and the CA keys can be used."""
    try:
        await issuing.ready()
    except (StorageError, IssuerError) as error:
        raise Refusal("unavailable", "the database or a CA cannot be used") from error
    return Health("ready")


HANDLERS = (healthz, readyz)
