"""Adapter: HTTP client of the local socket, for the command line.

The program at the socket can be an agent of another version, or another program. Its answer is parsed here, once. An
answer that is not of the expected form is an error that names the socket and the fault.
"""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import trio

from node.errors import NodeError, Unreachable
from node.exits import Exit
from node.local.documents import (
    FORMAT,
    DeactivationDocument,
    EntitlementDocument,
    LicenseDocument,
    RequestDocument,
    StatusDocument,
)
from node.text import shown, shown_error
from protocol.encoding import json_decode
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX

ANSWER_BYTES_MAX = 1024 * 1024
"""A status with every condition and the largest lease has 100 kB."""
CODE_CHARACTERS_MAX = 64

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, errno.ENOTSOCK, errno.EPROTOTYPE})


class AgentAbsent(Unreachable):
    """No agent listens at the socket."""

    code = "agent_absent"
    next = "`cascadia status` says whether it can run. Start it: `systemctl start cascadia`, or `cascadia run`."


class AgentUnusable(Unreachable):
    """A program listens at the socket, or the system refuses to reach it. Its answer cannot be used."""

    code = "agent_unusable"
    next = "Check that the agent listens at this socket, and that it has the version of this command. Restart it."


class AgentRefused(NodeError):
    """The agent answered with a problem."""

    exit = Exit.TRY_AGAIN
    code = "agent_refused"
    next = "See the agent's log: `journalctl -u cascadia`."


class NameUnusable(NodeError):
    """The name of an entitlement cannot be asked for."""

    exit = Exit.USAGE
    code = "malformed"
    next = "Ask the vendor of the software for the entitlement's name."


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


async def request(socket: Path, method: str, path: str, seconds_max: float = 10.0, body: bytes = b"") -> Reply:
    """One exchange with the agent, within `seconds_max`. `body` is that of a command. Raises AgentAbsent, AgentUnusable."""
    # The socket has no TLS: with `verify=False` httpx reads no CA file, and neither SSL_CERT_FILE nor SSLKEYLOGFILE.
    transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False, trust_env=False)
    status, content = 0, b""
    try:
        with trio.fail_after(seconds_max):
            async with (
                httpx.AsyncClient(transport=transport, timeout=None, trust_env=False) as client,  # noqa: S113 - above
                client.stream(method, f"http://cascadia{path}", content=body or None) as response,
            ):
                status = response.status_code
                async for piece in response.aiter_raw():
                    content += piece[: ANSWER_BYTES_MAX + 1 - len(content)]
                    if len(content) > ANSWER_BYTES_MAX:
                        # This ends the iteration with an error. A `break` would leave the library's generators open.
                        await response.aclose()
    except trio.TooSlowError as error:
        raise AgentUnusable(f"cannot use the agent at {socket}: it did not answer in time") from error
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError, ValueError) as error:
        if len(content) <= ANSWER_BYTES_MAX:
            raise _failure(socket, error) from error
    if len(content) > ANSWER_BYTES_MAX:
        raise AgentUnusable(f"cannot use the answer at {socket}: it is too long")
    try:
        return Reply(status, json_decode(content, dict[str, Any]))
    except msgspec.MsgspecError as error:
        raise AgentUnusable(f"cannot use the answer at {socket}: it is not a JSON object ({error})") from error


def _failure(socket: Path, error: Exception) -> Unreachable:
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _ABSENT:
            return AgentAbsent(f"cannot reach the agent at {socket}: it is not running")
        if isinstance(cause, OSError) and cause.errno == errno.EACCES:
            return AgentUnusable(f"cannot reach the agent at {socket}: permission denied")
    return AgentUnusable(f"cannot use the answer at {socket}: {shown_error(error)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def entitlement_path(name: str) -> str:
    """The path of an entitlement. Raises NameUnusable for a name that no lease can have."""
    if not 0 < len(name) <= ENTITLEMENT_NAME_CHARS_MAX:
        raise NameUnusable(f"cannot ask for an entitlement: its name has 1 to {ENTITLEMENT_NAME_CHARS_MAX} characters")
    try:
        return f"/v1/entitlements/{quote(name, safe='')}"
    except UnicodeEncodeError as error:
        raise NameUnusable("cannot ask for an entitlement: its name is not UTF-8") from error


Kind = (
    type[LicenseDocument]
    | type[StatusDocument]
    | type[EntitlementDocument]
    | type[RequestDocument]
    | type[DeactivationDocument]
)

_TASKS: dict[Kind, str] = {
    LicenseDocument: "renew",
    StatusDocument: "show the status",
    EntitlementDocument: "show the entitlement",
    RequestDocument: "make a request",
    DeactivationDocument: "deactivate this machine",
}
"""What a command does with the document that it asked for. Only a renewal is answered with the licence alone."""


def expect(reply: Reply, statuses: set[int], kind: Kind) -> dict[str, Any]:
    """The document of an expected status. A field that an older agent does not send gets its default.

    Raises AgentRefused for a problem, AgentUnusable for a document that is not of this kind and format.
    """
    given = reply.document
    if reply.status not in statuses or "title" in given:
        raise _refusal(reply, kind)
    if given.get("format", FORMAT) != FORMAT:
        raise AgentUnusable(
            f"cannot use the agent's answer: its format is {given['format']!r}, and this command reads format {FORMAT}"
        )
    try:
        document = msgspec.convert(given, kind)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise AgentUnusable(f"cannot use the agent's answer: {error}") from error
    licence = document.license if isinstance(document, StatusDocument) else document
    if isinstance(licence, LicenseDocument) and not 0 <= licence.exit_code <= 255:
        raise AgentUnusable(f"cannot use the agent's answer: {licence.exit_code} is no exit code")
    if isinstance(licence, EntitlementDocument) and licence.granted != (reply.status == 200):
        raise AgentUnusable(f"cannot use the agent's answer: its status {reply.status} contradicts `granted`")
    return _filled(msgspec.to_builtins(document), given)


def _refusal(reply: Reply, kind: Kind) -> AgentRefused:
    given = reply.document
    title = str(given.get("title", reply.status))
    refused = AgentRefused(title if title.startswith("cannot ") else f"cannot {_TASKS[kind]}: {title}")
    code = shown(str(given.get("code", "")), CODE_CHARACTERS_MAX)
    number = given.get("exit_code")
    known = {int(member): member for member in Exit if member is not Exit.OK}
    refused.exit = _EXITS.get(code, refused.exit)
    if isinstance(number, int):
        refused.exit = known.get(number, refused.exit)
    refused.code = code or refused.code
    denied = "Run the command as root." if code == "permission_denied" else refused.next
    refused.next = shown(str(given.get("next", ""))) or denied
    return refused


def _filled(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, with the missing members of `defaults`, also in its inner objects."""
    inner = {
        name: _filled(defaults[name], value)
        for name, value in given.items()
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
    }
    return defaults | given | inner
