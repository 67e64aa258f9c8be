"""Adapter: HTTP client of the local socket, for the command line."""

from pathlib import Path
from typing import Any

import httpx
import msgspec

from node.errors import NodeError, Unreachable
from node.exits import Exit
from protocol.encoding import json_decode


class AgentAbsent(Unreachable):
    """No agent answers on the socket."""

    code = "agent_absent"
    next = "Start it: `systemctl start cascadia`, or `cascadia run`."


class AgentRefused(NodeError):
    """The agent answered with a problem."""

    exit = Exit.TRY_AGAIN
    code = "agent_refused"
    next = "See the agent's log: `journalctl -u cascadia`."


_EXITS = {
    "cloud_unreachable": Exit.UNREACHABLE,
    "permission_denied": Exit.USAGE,
    "malformed": Exit.USAGE,
}
"""Code of a problem -> exit code, where the problem has none and the exit code is not TRY_AGAIN."""


class Reply(msgspec.Struct, frozen=True):
    """Status and document of the agent's answer."""

    status: int
    document: dict[str, Any]


async def request(socket: Path, method: str, path: str, seconds_max: float = 10.0) -> Reply:
    """One exchange with the agent. Raises AgentAbsent."""
    # The socket has no TLS: with `verify=False` httpx reads no CA file, and neither SSL_CERT_FILE nor SSLKEYLOGFILE.
    transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False, trust_env=False)
    try:
        async with httpx.AsyncClient(transport=transport, timeout=seconds_max, trust_env=False) as client:
            response = await client.request(method, f"http://cascadia{path}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AgentAbsent(f"cannot reach the agent at {socket}: it is not running") from error
    try:
        return Reply(response.status_code, json_decode(response.content, dict[str, Any]))
    except msgspec.MsgspecError as error:
        raise AgentAbsent(f"cannot use the answer at {socket}: it is not the agent's") from error


def expect(reply: Reply, statuses: set[int]) -> dict[str, Any]:
    """The document of an expected status. Raises AgentRefused."""
    if reply.status not in statuses or "title" in reply.document:
        title = str(reply.document.get("title", reply.status))
        refused = AgentRefused(title if title.startswith("cannot ") else f"cannot do this: {title}")
        code = str(reply.document.get("code", ""))
        exits = {int(member): member for member in Exit if member is not Exit.OK}
        known = exits.get(reply.document.get("exit_code", 0), _EXITS.get(code, refused.exit))
        refused.exit, refused.code = known, code or refused.code
        refused.next = str(reply.document.get("next", "")) or refused.next
        raise refused
    return reply.document
