"""Routes: renewal with fresh evidence, for nodes whose device certificate opens no session. The chip admits them."""

from typing import Any

from litestar import Request, post
from litestar.params import FromPath, JSONBody

from cloud.fabric.routes.access import renewal_id
from cloud.fabric.service.nodes.renewal import Renewals
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS
from protocol.encoding import sha256_hex
from protocol.messages.renewal import PATH_RENEWALS, ProveRenewal, RenewalChallenge, Renewed, StartRenewal


@post(PATH_RENEWALS, status_code=201, opt={"peers": (ANONYMOUS,)})
async def start(data: JSONBody[StartRenewal], renewals: Wired[Renewals]) -> RenewalChallenge:
    """A challenge to the chip of the generation that the device certificate names."""
    return await renewals.start(data)


@post(f"{PATH_RENEWALS}/{{renewal:str}}/proof", status_code=200, opt={"peers": (ANONYMOUS,)})
async def prove(
    renewal: FromPath[str],
    data: JSONBody[ProveRenewal],
    request: Request[Any, Any, Any],
    renewals: Wired[Renewals],
) -> Renewed:
    """The device certificate for an answered challenge; a byte-identical body gets the stored answer."""
    body_sha256 = sha256_hex(await request.body())
    return await renewals.prove(renewal_id(renewal), data, body_sha256)


HANDLERS = (start, prove)
