"""Routes: the local socket. One table serves the requests and is the source of the API document (`openapi.py`).

Every local user who reaches the socket can read. Commands are for root and the agent's own user.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

import msgspec

from node.errors import NodeError
from node.hwbind.errors import TpmError
from node.licensing.verdict import Snapshot
from node.local.documents import (
    FORMAT,
    EntitlementDocument,
    LicenseDocument,
    RequestDocument,
    StatusDocument,
    entitlement_document,
    license_document,
)
from node.local.messages import PATH_IMPORT, Answer, Handler, LocalProblem, Request, problem
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX

if TYPE_CHECKING:
    from node.airgap.store import StoredRequest


class Licensed(Protocol):
    """Port: a running agent, as the routes see it."""

    def snapshot(self) -> Snapshot:
        """The licence now. Raises NodeError while there is none."""

    def status(self) -> StatusDocument:
        """The state of the agent, with the licence."""

    async def renew(self, *, rekey: bool) -> None:
        """Refresh licence, session and device certificate. Raises NodeError, TpmError."""

    async def make_request(self, *, new: bool) -> "StoredRequest":
        """The outstanding request for an answer without a network. Raises NodeError, TpmError."""

    async def import_answer(self, data: bytes) -> None:
        """Import an answer without a network. Raises NodeError, TpmError."""


class Refused(msgspec.Struct, frozen=True):
    """A refusal that a route can answer."""

    status: int
    code: str
    title: str


MALFORMED = Refused(400, "malformed", "an entitlement's name is empty or too long")
PERMISSION_DENIED = Refused(403, "permission_denied", "only root and the agent's user may do this")
NOT_FOUND = Refused(404, "not_found", "no such path; `cascadia schema` prints the paths")
METHOD_NOT_ALLOWED = Refused(405, "method_not_allowed", "no such method here")


class Asked(msgspec.Struct, frozen=True):
    """What a request asks for: the parameter of its path, percent-decoded, and its body."""

    parameter: str = ""
    body: bytes = b""


class Route(msgspec.Struct, frozen=True):
    """One operation: method, path, and the function that answers it.

    `path` may have one parameter in braces as its last part. `answers` is the body by status. `is_command`: the operation
    is refused to other users than root and the agent's own. `body` describes the body of the request; empty without one.
    """

    method: str
    path: str
    answer: Callable[[Licensed, Asked], Awaitable[Answer]]
    answers: dict[int, type[msgspec.Struct]]
    refuses: tuple[Refused, ...] = ()
    is_command: bool = False
    body: str = ""


async def show_license(agent: Licensed, _: Asked) -> Answer:
    """Show the licence.

    Licensed software may use the answer until `valid_until`, and asks again before.
    """
    return Answer(200, license_document(agent.snapshot()))


async def check_entitlement(agent: Licensed, asked: Asked) -> Answer:
    """Check an entitlement of the licence.

    The status is 200 if the entitlement is granted and 403 if not. Both have the same body.
    """
    name = asked.parameter
    if not 0 < len(name) <= ENTITLEMENT_NAME_CHARS_MAX:
        return _refused(MALFORMED)
    document = entitlement_document(agent.snapshot(), name)
    return Answer(200 if document.granted else 403, document)


async def show_status(agent: Licensed, _: Asked) -> Answer:
    """Show the state of the agent, with the licence."""
    return Answer(200, agent.status())


async def renew(agent: Licensed, _: Asked) -> Answer:
    """Refresh the licence, the session and the device certificate now.

    The answer is the licence after that. A failure is answered 503 with the code of its cause.
    """
    return await _renew(agent, rekey=False)


async def renew_with_new_key(agent: Licensed, _: Asked) -> Answer:
    """Make a new node key in the TPM, then renew the device certificate for it.

    The answer is the licence after that. A failure is answered 503 with the code of its cause.
    """
    return await _renew(agent, rekey=True)


async def show_request(agent: Licensed, _: Asked) -> Answer:
    """Make a request for an answer without a network, or show the outstanding one again.

    The same bytes are shown until the answer is imported or the request has expired. A failure is answered 503 with the
    code of its cause.
    """
    return Answer(200, request_document(await agent.make_request(new=False)))


async def make_another_request(agent: Licensed, _: Asked) -> Answer:
    """Abandon the outstanding request, and make another one.

    An answer to the abandoned request is refused afterwards. A failure is answered 503 with the code of its cause.
    """
    return Answer(200, request_document(await agent.make_request(new=True)))


async def import_answer(agent: Licensed, asked: Asked) -> Answer:
    """Import the answer to the outstanding request.

    The answer is the licence after that. A file that is refused changes nothing; it is answered 503 with the code of the
    refusal.
    """
    await agent.import_answer(asked.body)
    return Answer(200, license_document(agent.snapshot()))


ROUTES = (
    Route("GET", "/v1/license", show_license, {200: LicenseDocument}),
    Route(
        "GET",
        "/v1/entitlements/{name}",
        check_entitlement,
        {200: EntitlementDocument, 403: EntitlementDocument},
        refuses=(MALFORMED,),
    ),
    Route("GET", "/v1/status", show_status, {200: StatusDocument}),
    Route("POST", "/v1/renew", renew, {200: LicenseDocument}, refuses=(PERMISSION_DENIED,), is_command=True),
    Route(
        "POST",
        "/v1/renew/rekey",
        renew_with_new_key,
        {200: LicenseDocument},
        refuses=(PERMISSION_DENIED,),
        is_command=True,
    ),
    Route("POST", "/v1/requests", show_request, {200: RequestDocument}, refuses=(PERMISSION_DENIED,), is_command=True),
    Route(
        "POST",
        "/v1/requests/new",
        make_another_request,
        {200: RequestDocument},
        refuses=(PERMISSION_DENIED,),
        is_command=True,
    ),
    Route(
        "POST",
        PATH_IMPORT,
        import_answer,
        {200: LicenseDocument},
        refuses=(PERMISSION_DENIED,),
        is_command=True,
        body="The file with the answer: JSON, printable text, or the text of a QR code.",
    ),
)


def request_document(stored: "StoredRequest") -> RequestDocument:
    """The document of an outstanding request."""
    return RequestDocument(
        format=FORMAT,
        request=stored.outstanding.request,
        kind=stored.outstanding.kind,
        made_at=stored.made_at,
        expires_at=stored.expires_at,
        file=stored.file.decode(),
    )


async def _renew(agent: Licensed, *, rekey: bool) -> Answer:
    await agent.renew(rekey=rekey)
    return Answer(200, license_document(agent.snapshot()))


def _failed(error: NodeError | TpmError) -> Answer:
    step, code = (error.advice, error.exit_code) if isinstance(error, TpmError) else (error.next, int(error.exit))
    return Answer(503, LocalProblem(title=str(error), status=503, code=error.code, next=step, exit_code=code))


def _refused(refused: Refused) -> Answer:
    return problem(refused.status, refused.code, refused.title)


def parameter_of(route: Route, path: str) -> str | None:
    """The parameter in a request's path, empty for a route without one. None if the path is not the route's."""
    template, _, parameter = route.path.partition("{")
    if not parameter:
        return "" if path == template else None
    rest = path.removeprefix(template)
    return unquote(rest) if path.startswith(template) and "/" not in rest else None


def handler(agent: Licensed) -> Handler:
    """The routes of the socket over a running agent.

    A NodeError or TpmError of a route is answered 503 with its code, also while the agent has no licence to show.
    """

    async def handle(request: Request) -> Answer:
        path = request.path.partition("?")[0]
        found = [(route, name) for route in ROUTES if (name := parameter_of(route, path)) is not None]
        if not found:
            return _refused(NOT_FOUND)
        for route, name in found:
            if route.method == request.method:
                if route.is_command and not request.privileged:
                    return _refused(PERMISSION_DENIED)
                try:
                    return await route.answer(agent, Asked(name, request.body if route.body else b""))
                except (NodeError, TpmError) as error:
                    return _failed(error)
        methods = tuple(route.method for route, _ in found)
        return msgspec.structs.replace(_refused(METHOD_NOT_ALLOWED), allow=methods)

    return handle
