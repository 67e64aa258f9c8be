"""Routes of the local socket, and what they need of the agent.

Reading is for everyone who reaches the socket; a command is for root and the agent's own user.
"""

from typing import Protocol
from urllib.parse import unquote

from node.errors import NodeError
from node.hwbind.errors import TpmError
from node.licensing.verdict import Snapshot
from node.local.documents import StatusDocument, entitlement_document, license_document
from node.local.server import Answer, Handler, Request, problem
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX


class Licensed(Protocol):
    """Port: a running agent, as the routes see it."""

    def snapshot(self) -> Snapshot:
        """The licence now."""

    def status(self) -> StatusDocument:
        """The agent's own state with the licence."""

    async def renew(self, *, rekey: bool) -> None:
        """Refresh licence, session and device certificate. Raises NodeError, TpmError."""


async def _renew(agent: Licensed, request: Request, *, rekey: bool = False) -> Answer:
    if not request.privileged:
        return problem(403, "permission_denied", "only root and the agent's user may do this")
    try:
        await agent.renew(rekey=rekey)
    except (NodeError, TpmError) as error:
        return problem(503, error.code, str(error))
    return Answer(200, license_document(agent.snapshot()))


def handler(agent: Licensed) -> Handler:
    """The routes of the socket over a running agent."""

    async def handle(request: Request) -> Answer:
        match request.method, request.path.partition("?")[0].split("/"):
            case "GET", ["", "v1", "license"]:
                return Answer(200, license_document(agent.snapshot()))
            case "GET", ["", "v1", "entitlements", encoded]:
                name = unquote(encoded)
                if not 0 < len(name) <= ENTITLEMENT_NAME_CHARS_MAX:
                    return problem(400, "malformed", "an entitlement's name is empty or too long")
                document = entitlement_document(agent.snapshot(), name)
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
