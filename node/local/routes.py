"""Routes of the local socket."""

from typing import TYPE_CHECKING
from urllib.parse import unquote

from node.errors import NodeError
from node.hwbind.errors import TpmError
from node.local.server import Answer, Handler, Request, problem
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX

if TYPE_CHECKING:
    from node.agent import Agent

from node.local.documents import entitlement_document, license_document


async def _renew(agent: "Agent", request: Request, *, rekey: bool = False) -> Answer:
    """The one command. A revoked node has no session left to renew its certificate over."""
    if not request.privileged:
        return problem(403, "permission_denied", "only root and the agent's user may do this")
    if not await agent.contact(anew=True):
        return problem(503, "cloud_unreachable", "the cloud gave no usable answer; the licence is as it was")
    try:
        if not agent.licence.revoked:
            await agent.renew_device(rekey=rekey)
    except (NodeError, TpmError) as error:
        return problem(503, getattr(error, "code", "failed"), str(error))
    return Answer(200, license_document(agent.licence))


def handler(agent: "Agent") -> Handler:
    """The routes of the socket over a running agent."""

    async def handle(request: Request) -> Answer:
        match request.method, request.path.partition("?")[0].split("/"):
            case "GET", ["", "v1", "license"]:
                return Answer(200, license_document(agent.licence))
            case "GET", ["", "v1", "entitlements", encoded]:
                name = unquote(encoded)
                if not 0 < len(name) <= ENTITLEMENT_NAME_CHARS_MAX:
                    return problem(400, "malformed", "an entitlement's name is empty or too long")
                document = entitlement_document(agent.licence, name)
                return Answer(200 if document.granted else 403, document)
            case "GET", ["", "v1", "status"]:
                return Answer(200, agent.status())
            case "POST", ["", "v1", "renew"]:
                return await _renew(agent, request)
            case "POST", ["", "v1", "renew", "rekey"]:
                return await _renew(agent, request, rekey=True)
            case _, ["", "v1", "license" | "status" | "renew"] | ["", "v1", "entitlements" | "renew", _]:
                return problem(405, "method_not_allowed", "no such method here")
            case _:
                return problem(404, "not_found", "no such path; see cascadia(8)")

    return handle
