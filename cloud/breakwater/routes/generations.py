"""Routes: Fabric opens and closes generations; every command is idempotent."""

from typing import Any

from litestar import Request, post
from litestar.params import JSONBody

from cloud.breakwater.generations import Generations
from cloud.breakwater.routes.access import caller
from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_OPEN,
    PATH_SUPERSEDE_KEYS,
    CloseGeneration,
    CloseGenerations,
    GenerationOpened,
    GenerationsClosed,
    KeysSuperseded,
    OpenGeneration,
    SupersedeKeys,
)
from cloud.http.app import Wired
from cloud.http.guard import service


@post(PATH_OPEN, status_code=200, opt={"peers": (service("fabric"),)})
async def open_generation(
    data: JSONBody[OpenGeneration], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> GenerationOpened:
    """Open a generation of a node."""
    await generations.open(caller(request), data)
    return GenerationOpened(data.generation)


@post(PATH_CLOSE, status_code=200, opt={"peers": (service("fabric"),)})
async def close_generations(
    data: JSONBody[CloseGenerations], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> GenerationsClosed:
    """Close every generation of a node up to one, for ever."""
    return GenerationsClosed(await generations.close_up_to(caller(request), data))


@post(PATH_CLOSE_ONE, status_code=200, opt={"peers": (service("fabric"),)})
async def close_generation(
    data: JSONBody[CloseGeneration], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> GenerationsClosed:
    """Close one generation of a node and none before it, for ever."""
    return GenerationsClosed(await generations.close_one(caller(request), data))


@post(PATH_SUPERSEDE_KEYS, status_code=200, opt={"peers": (service("fabric"),)})
async def supersede_keys(
    data: JSONBody[SupersedeKeys], request: Request[Any, Any, Any], generations: Wired[Generations]
) -> KeysSuperseded:
    """Revoke the certificates of the keys that a generation had before."""
    return KeysSuperseded(await generations.supersede_keys(caller(request), data))


HANDLERS = (open_generation, close_generations, close_generation, supersede_keys)
