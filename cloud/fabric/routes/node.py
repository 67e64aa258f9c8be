"""Routes: what nodes ask. Nonces and sessions need no client certificate, all else goes over a session."""

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.fabric.service.nodes.confirm import Confirmations
from cloud.fabric.service.nodes.sessions import PATH_SESSIONS, Sessions
from cloud.fabric.service.nodes.statement import Statements
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS, NODE, current_node
from protocol.limits import EVENT_WAIT_SECONDS_MAX, SEQ_MAX
from protocol.messages.sessions import Ask, Events, Nonce, OpenSession, Session, StatementAnswer

Asked = Request[Any, Any, Any]


@post("/v1/node/nonces", status_code=200, opt={"peers": (ANONYMOUS,)})
async def nonce(sessions: Wired[Sessions]) -> Nonce:
    """A nonce for a session proof."""
    return sessions.make_nonce()


@post(PATH_SESSIONS, status_code=200, opt={"peers": (ANONYMOUS,)})
async def open_session(data: JSONBody[OpenSession], sessions: Wired[Sessions]) -> Session:
    """A session certificate and the current statement, for a proof by the node key."""
    return await sessions.open_session(data)


@post("/v1/node/confirm", status_code=200, opt={"peers": (NODE,)})
async def confirm(data: JSONBody[Ask], request: Asked, confirmations: Wired[Confirmations]) -> StatementAnswer:
    """Make the caller's generation the node's."""
    return await confirmations.confirm(current_node(request), data)


@post("/v1/node/statement", status_code=200, opt={"peers": (NODE,)})
async def statement(data: JSONBody[Ask], request: Asked, statements: Wired[Statements]) -> StatementAnswer:
    """The node's current statement."""
    return await statements.statement(current_node(request), data)


@get("/v1/node/events", opt={"peers": (NODE,)})
async def events(
    request: Asked,
    statements: Wired[Statements],
    cursor: Annotated[int, QueryParameter(ge=0, le=SEQ_MAX)] = 0,
    wait: Annotated[int, QueryParameter(ge=0, le=EVENT_WAIT_SECONDS_MAX)] = 0,
) -> Events:
    """A hint that something changed since `cursor`: at once, after a change, or after `wait` seconds."""
    return await statements.events(current_node(request), cursor, wait)


HANDLERS = (nonce, open_session, confirm, statement, events)
