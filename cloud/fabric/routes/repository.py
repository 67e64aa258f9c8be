"""Routes: the TUF repository, read-only, on a listener of its own without TLS, since its files are signed."""

from litestar import Response, get
from litestar.params import FromPath

from cloud.fabric.errors import NotFound
from cloud.fabric.routes.health import healthz
from cloud.fabric.tuf.serving import METADATA_PREFIX, TARGETS_PREFIX, TrustStore, file_for
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS


async def _answer(repository: TrustStore, path: str) -> Response[bytes]:
    content = await file_for(path, repository)
    if content is None:
        raise NotFound("no such file")
    # Every name but one stands for the same bytes for ever.
    lasting = "no-cache" if path.endswith("/timestamp.json") else "public, max-age=86400, immutable"
    return Response(content, media_type="application/json", headers={"Cache-Control": lasting})


@get("/tuf/metadata/{name:str}", opt={"peers": (ANONYMOUS,)})
async def metadata(name: FromPath[str], repository: Wired[TrustStore]) -> Response[bytes]:
    """A signed metadata file."""
    return await _answer(repository, METADATA_PREFIX + name)


@get("/tuf/targets/{name:str}", opt={"peers": (ANONYMOUS,)})
async def target(name: FromPath[str], repository: Wired[TrustStore]) -> Response[bytes]:
    """The content of a target."""
    return await _answer(repository, TARGETS_PREFIX + name)


HANDLERS = (metadata, target, healthz)
