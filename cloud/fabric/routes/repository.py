"""The TUF repository, read-only, on a listener of its own without TLS: its files are signed."""

from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

from cloud.fabric.errors import NotFound
from cloud.fabric.routes.health import healthz
from cloud.fabric.tuf.serving import METADATA_PREFIX, TARGETS_PREFIX, TrustStore, file_for
from cloud.http.guard import ANONYMOUS


async def _answer(request: Request[Any, Any, Any], path: str) -> Response[bytes]:
    files: TrustStore = request.app.state["it"]
    content = await file_for(path, files)
    if content is None:
        raise NotFound("no such file")
    # Every name but one stands for the same bytes for ever.
    lasting = "no-cache" if path.endswith("/timestamp.json") else "public, max-age=86400, immutable"
    return Response(content, media_type="application/json", headers={"Cache-Control": lasting})


@get("/tuf/metadata/{name:str}", opt={"peers": (ANONYMOUS,)})
async def metadata(name: FromPath[str], request: Request[Any, Any, Any]) -> Response[bytes]:
    """A signed metadata file."""
    return await _answer(request, METADATA_PREFIX + name)


@get("/tuf/targets/{name:str}", opt={"peers": (ANONYMOUS,)})
async def target(name: FromPath[str], request: Request[Any, Any, Any]) -> Response[bytes]:
    """The content of a target."""
    return await _answer(request, TARGETS_PREFIX + name)


HANDLERS = (metadata, target, healthz)
