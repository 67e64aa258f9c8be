"""Routes: activation, for callers who have no identity yet. The code, the chip and the proof are what admits them."""

from typing import Any

from litestar import Request, post
from litestar.params import FromPath, JSONBody

from cloud.fabric.routes.access import activation_id
from cloud.fabric.service.nodes.activation import Activations
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from protocol.encoding import sha256_hex
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation


@post("/v1/activations", status_code=201, opt={"peers": (ANONYMOUS,)})
async def start(data: JSONBody[StartActivation], activations: Wired[Activations]) -> Challenge:
    """A challenge to the chip that the evidence names."""
    return await activations.start(data)


@post("/v1/activations/{activation:str}/proof", status_code=200, opt={"peers": (ANONYMOUS,)})
async def prove(
    activation: FromPath[str],
    data: JSONBody[ProveActivation],
    request: Request[Any, Any, Any],
    activations: Wired[Activations],
) -> Activated:
    """The device certificate for an answered challenge; a byte-identical body gets the stored answer."""
    body_sha256 = sha256_hex(await request.body())
    return await activations.prove(activation_id(activation), data, body_sha256)


HANDLERS = (start, prove)
