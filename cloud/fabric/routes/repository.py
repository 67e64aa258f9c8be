"""Routes: the TUF repository, read-only. Its listener has no TLS, because its files are signed."""

from typing import Annotated

from litestar import Response, get
from litestar.params import PathParameter

from cloud.fabric.errors import NotFound
from cloud.fabric.routes.buckets import REPOSITORY
from cloud.fabric.routes.health import healthz
from cloud.fabric.tuf.serving import METADATA_PREFIX, TARGETS_PREFIX, TrustStore, file_for
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from cloud.http.openapi import Binary, operation_options

_JSON = "application/json"
MetadataFileName = Annotated[
    str, PathParameter(description="`timestamp.json`, or VERSION.ROLE.json with the role root, targets or snapshot.")
]
TargetFileName = Annotated[str, PathParameter(description="SHA256.NAME, with the hash in hex and the target's name.")]


async def _answer(repository: TrustStore, path: str) -> Response[bytes]:
    content = await file_for(path, repository)
    if content is None:
        raise NotFound("no such file")
    # Every name except timestamp.json names the same bytes for ever.
    lasting = "no-cache" if path.endswith("/timestamp.json") else "public, max-age=86400, immutable"
    return Response(content, media_type=_JSON, headers={"Cache-Control": lasting})


@get(
    "/tuf/metadata/{name:str}",
    opt=operation_options(
        ANONYMOUS, bucket=REPOSITORY, refuses=(NotFound,), answers=Binary(_JSON, "Signed TUF metadata.")
    ),
)
async def fetch_metadata(name: MetadataFileName, repository: Wired[TrustStore]) -> Response[bytes]:
    """Fetch a signed metadata file (TUF 1.0 section 5)."""
    return await _answer(repository, METADATA_PREFIX + name)


@get(
    "/tuf/targets/{name:str}",
    opt=operation_options(
        ANONYMOUS, bucket=REPOSITORY, refuses=(NotFound,), answers=Binary(_JSON, "The content of the target.")
    ),
)
async def fetch_target(name: TargetFileName, repository: Wired[TrustStore]) -> Response[bytes]:
    """Fetch the content of a target.

    Metadata names targets with their hashes (TUF 1.0 section 6.2).
    """
    return await _answer(repository, TARGETS_PREFIX + name)


HANDLERS = (fetch_metadata, fetch_target, healthz)
