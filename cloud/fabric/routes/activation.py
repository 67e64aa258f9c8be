"""Activation, for callers who have no identity yet: the code, the chip and the proof are what admits them."""

from typing import Any

from litestar import Request, post
from litestar.params import FromPath, JSONBody

from cloud.fabric.routes.access import activation_id, core_of
from cloud.fabric.service.nodes import activation as service
from cloud.http.guard import ANONYMOUS
from protocol.encoding import sha256_hex
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation


@post("/v1/activations", status_code=201, opt={"peers": (ANONYMOUS,)})
async def start(data: JSONBody[StartActivation], request: Request[Any, Any, Any]) -> Challenge:
    """A challenge to the chip that the evidence names."""
    return await service.start(core_of(request), data)


@post("/v1/activations/{activation:str}/proof", status_code=200, opt={"peers": (ANONYMOUS,)})
async def prove(
    activation: FromPath[str], data: JSONBody[ProveActivation], request: Request[Any, Any, Any]
) -> Activated:
    """The device certificate for an answered challenge; a byte-identical body gets the stored answer."""
    body_sha256 = sha256_hex(await request.body())
    return await service.prove(core_of(request), activation_id(activation), data, body_sha256)


HANDLERS = (start, prove)
