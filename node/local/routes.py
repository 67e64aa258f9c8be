"""Routes: the local socket. One table serves the requests and is the source of the API document (`openapi.py`).

Every local user who reaches the socket can read. Commands are for root and the agent's own user.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, unquote

import msgspec

from node.errors import NodeError
from node.exits import Exit
from node.hwbind.errors import TpmError
from node.licensing.verdict import Snapshot
from node.local.changes import WAIT_SECONDS_MAX, WAITS_PER_USER_MAX, Changes
from node.local.documents import (
    FORMAT,
    ChangesDocument,
    DeactivationDocument,
    EntitlementDocument,
    LeftDocument,
    LicenseDocument,
    RequestDocument,
    StatusDocument,
    entitlement_document,
    license_document,
)
from node.local.messages import PATH_IMPORT, PATH_LEND, Answer, Handler, LocalProblem, Request, problem
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX

if TYPE_CHECKING:
    from node.airgap.store import StoredRequest
    from node.disk.deactivated import Deactivated


class Licensed(Protocol):
    """Port: a running agent, as the routes see it."""

    @property
    def changes(self) -> Changes:
        """The position of the changes of the licence."""

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

    async def deactivate(self, *, forget: bool) -> "Deactivated":
        """Hand the seat back, and store that this machine is deactivated. Raises NodeError, TpmError."""

    def end_deactivated(self) -> None:
        """End the agent after `deactivate`."""

    async def lend(self) -> None:
        """Lend the state directory to a command. Raises NodeError."""


class Refused(msgspec.Struct, frozen=True):
    """A refusal that a route can answer."""

    status: int
    code: str
    title: str


MALFORMED = Refused(400, "malformed", "an entitlement's name is empty or too long")
WAIT_MALFORMED = Refused(400, "wait_malformed", f"`wait` is a whole number of seconds from 0 to {WAIT_SECONDS_MAX}")
BUSY = Refused(503, "busy", f"this user has {WAITS_PER_USER_MAX} long polls open; ask again without a wait")
PERMISSION_DENIED = Refused(403, "permission_denied", "only root and the agent's user may do this")
NOT_FOUND = Refused(404, "not_found", "no such path; `cascadia schema` prints the paths")
WAIT_DIGITS_MAX = 4
"""A longer number is no wait, and is not converted."""
METHOD_NOT_ALLOWED = Refused(405, "method_not_allowed", "no such method here")


class Asked(msgspec.Struct, frozen=True):
    """What a request asks for: the parameter of its path and those of its query, percent-decoded, and its body.

    `user` is the caller's user id.
    """

    parameter: str = ""
    body: bytes = b""
    query: dict[str, str] = {}
    user: int = 0


class QueryParameter(msgspec.Struct, frozen=True):
    """A parameter of a query, for the API document. `seconds_max` is the bound of a number of seconds; 0 for a text."""

    name: str
    text: str
    seconds_max: int = 0


class Route(msgspec.Struct, frozen=True):
    """One operation: method, path, and the function that answers it.

    `path` may have one parameter in braces as its last part. `answers` is the body by status. `is_command`: the operation
    is refused to other users than root and the agent's own. `body` describes the body of the request; empty without one.
    `query` has the parameters of its query; others are ignored.
    """

    method: str
    path: str
    answer: Callable[[Licensed, Asked], Awaitable[Answer]]
    answers: dict[int, type[msgspec.Struct]]
    refuses: tuple[Refused, ...] = ()
    is_command: bool = False
    body: str = ""
    query: tuple[QueryParameter, ...] = ()


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


async def await_change(agent: Licensed, asked: Asked) -> Answer:
    """Wait for a change of the licence or of an entitlement.

    The answer is a hint without the licence: ask for the licence or the entitlement after it. Without a cursor, or with
    a cursor that the agent does not know, the answer comes at once. A program that asks for the cursor first, then for an
    entitlement, and then waits with that cursor, misses no change. While the program waits, it must ask again before its
    last answer ends at `valid_until`, so a wait of 15 seconds is usual.
    """
    wait = asked.query.get("wait", "0")
    if not (wait.isascii() and wait.isdigit() and len(wait) <= WAIT_DIGITS_MAX and int(wait) <= WAIT_SECONDS_MAX):
        return _refused(WAIT_MALFORMED)
    changed = await agent.changes.poll(asked.query.get("cursor", ""), int(wait), asked.user)
    if changed is None:
        return _refused(BUSY)
    return Answer(200, ChangesDocument(format=FORMAT, cursor=agent.changes.cursor, changed=changed))


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


async def deactivate(agent: Licensed, _: Asked) -> Answer:
    """Hand the seat back to the cloud, and deactivate this machine.

    The agent ends after the answer. The state is removed by `cascadia deactivate`, or before the next activation. A
    failure changes nothing; it is answered 503 with the code of its cause.
    """
    return await _deactivate(agent, forget=False)


async def deactivate_without_the_cloud(agent: Licensed, _: Asked) -> Answer:
    """Deactivate this machine, also if the cloud does not take the seat back.

    The answer says whether the seat is still taken. The rest is as for `/v1/deactivate`.
    """
    return await _deactivate(agent, forget=True)


async def lend_state(agent: Licensed, _: Asked) -> Answer:
    """Lend the state directory to the command that asks.

    For `cascadia activate` and `cascadia recover`, which take its lock at once. The agent reads the state again when the
    lock is free. Meanwhile it answers from its memory. A failure is answered 503 with the code of its cause.
    """
    await agent.lend()
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
    Route(
        "GET",
        "/v1/changes",
        await_change,
        {200: ChangesDocument},
        refuses=(WAIT_MALFORMED, BUSY),
        query=(
            QueryParameter("cursor", "Position of the last answer. Without one the answer comes at once."),
            QueryParameter("wait", "Longest wait, in seconds. Without one the answer comes at once.", WAIT_SECONDS_MAX),
        ),
    ),
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
    Route("POST", PATH_LEND, lend_state, {200: LicenseDocument}, refuses=(PERMISSION_DENIED,), is_command=True),
    Route(
        "POST",
        PATH_IMPORT,
        import_answer,
        {200: LicenseDocument},
        refuses=(PERMISSION_DENIED,),
        is_command=True,
        body="The file with the answer: JSON, printable text, or the text of a QR code.",
    ),
    Route(
        "POST",
        "/v1/deactivate",
        deactivate,
        {200: DeactivationDocument},
        refuses=(PERMISSION_DENIED,),
        is_command=True,
    ),
    Route(
        "POST",
        "/v1/deactivate/forget",
        deactivate_without_the_cloud,
        {200: DeactivationDocument},
        refuses=(PERMISSION_DENIED,),
        is_command=True,
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


def deactivation_document(record: "Deactivated") -> DeactivationDocument:
    """The document of a deactivation."""
    steps = []
    if record.seat == "taken":
        steps.append(
            f"The seat is still taken. An operator frees it with `cascade node release {record.node or 'NODE'}`"
            + (".", "; `cascade node list` shows the id of the node.")[not record.node]
        )
    elif record.seat == "revoked":
        steps.append("An operator has revoked this node. The cloud frees its seat once its last lease has terminated.")
    if record.left:
        steps.append(
            "Run `cascadia deactivate` again once the TPM removes the counter, or remove it with the owner's password: "
            "`tpm2_nvundefine -C o INDEX`."
        )
    return DeactivationDocument(
        format=FORMAT,
        node=record.node,
        deactivated_at=record.at,
        seat=record.seat,
        left=tuple(LeftDocument(each.index, each.reason) for each in record.left),
        next=" ".join(steps),
        exit_code=int(Exit.TPM if record.left and record.complete else Exit.OK),
    )


async def _deactivate(agent: Licensed, *, forget: bool) -> Answer:
    record = await agent.deactivate(forget=forget)
    return Answer(200, deactivation_document(record), sent=agent.end_deactivated)


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


def _parameters(route: Route, query: str) -> dict[str, str]:
    """The parameters of the route in a query, with their first values."""
    if not route.query:
        return {}
    given = parse_qs(query, keep_blank_values=True)
    return {each.name: given[each.name][0] for each in route.query if each.name in given}


def handler(agent: Licensed) -> Handler:
    """The routes of the socket over a running agent.

    A NodeError or TpmError of a route is answered 503 with its code, also while the agent has no licence to show.
    """

    async def handle(request: Request) -> Answer:
        path, _, query = request.path.partition("?")
        found = [(route, name) for route in ROUTES if (name := parameter_of(route, path)) is not None]
        if not found:
            return _refused(NOT_FOUND)
        for route, name in found:
            if route.method == request.method:
                if route.is_command and not request.privileged:
                    return _refused(PERMISSION_DENIED)
                try:
                    body = request.body if route.body else b""
                    return await route.answer(agent, Asked(name, body, _parameters(route, query), request.user))
                except (NodeError, TpmError) as error:
                    return _failed(error)
        methods = tuple(route.method for route, _ in found)
        return msgspec.structs.replace(_refused(METHOD_NOT_ALLOWED), allow=methods)

    return handle
