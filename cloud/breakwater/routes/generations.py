"""Routes: Fabric opens and closes generations. A repeat of a command changes nothing."""

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.breakwater.errors import Conflict, ValueRefused
from cloud.breakwater.generations import Generations
from cloud.breakwater.routes.access import caller
from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_GENERATIONS,
    PATH_OPEN,
    PATH_SUPERSEDE_KEYS,
    CloseGeneration,
    CloseGenerations,
    GenerationOpened,
    GenerationsClosed,
    GenerationsPage,
    KeysSuperseded,
    OpenGeneration,
    SupersedeKeys,
)
from cloud.http.admission import SERVICES
from cloud.http.app import Wired
from cloud.http.bounds import PRINTABLE
from cloud.http.guard import service
from cloud.http.openapi import operation_options

NODE_ID_CHARS_MAX = 64
After = Annotated[
    str,
    QueryParameter(
        name="cursor",
        max_length=NODE_ID_CHARS_MAX,
        pattern=PRINTABLE,
        description="Cursor of the page before. Empty for the first page.",
    ),
]
_COMMAND = operation_options(service("fabric"), bucket=SERVICES, refuses=(Conflict, ValueRefused))


@post(PATH_OPEN, status_code=200, opt=_COMMAND)
async def open_generation(
    data: JSONBody[OpenGeneration], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> GenerationOpened:
    """Open a generation of a node.

    Certificates are issued for open generations alone. A repeat changes nothing.
    """
    await generations.open(caller(request), data)
    return GenerationOpened(data.generation)


@post(PATH_CLOSE, status_code=200, opt=_COMMAND)
async def close_generations(
    data: JSONBody[CloseGenerations], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> GenerationsClosed:
    """Close every generation of a node up to a number, for ever.

    Their certificates are revoked. A repeat changes nothing.
    """
    return GenerationsClosed(await generations.close_up_to(caller(request), data))


@post(PATH_CLOSE_ONE, status_code=200, opt=_COMMAND)
async def close_generation(
    data: JSONBody[CloseGeneration], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> GenerationsClosed:
    """Close one generation of a node, for ever.

    Its certificates are revoked. Older generations stay as they are. A repeat changes nothing.
    """
    return GenerationsClosed(await generations.close_one(caller(request), data))


@post(PATH_SUPERSEDE_KEYS, status_code=200, opt=_COMMAND)
async def supersede_keys(
    data: JSONBody[SupersedeKeys], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> KeysSuperseded:
    """Revoke the certificates of the keys that a generation had before.

    A repeat changes nothing.
    """
    return KeysSuperseded(await generations.supersede_keys(caller(request), data))


@get(PATH_GENERATIONS, opt=operation_options(service("fabric"), bucket=SERVICES))
async def list_generations(generations: Wired[Generations], after: After = "") -> GenerationsPage:
    """List the generations of all nodes, in the order of the nodes' ids.

    Fabric compares them with its own after one of the two databases was restored from a backup.
    """
    return await generations.page(after)


HANDLERS = (list_generations, open_generation, close_generations, close_generation, supersede_keys)
