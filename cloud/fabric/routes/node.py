"""What nodes ask: nonces and sessions without a client certificate, all else over a session."""

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.fabric.routes.access import core_of
from cloud.fabric.service.nodes import confirm as service
from cloud.fabric.service.nodes import sessions
from cloud.fabric.service.nodes import statement as statements
from cloud.http.guard import ANONYMOUS, NODE, current_node
from protocol.limits import EVENT_WAIT_SECONDS_MAX, SEQ_MAX
from protocol.messages.sessions import Ask, Events, Nonce, OpenSession, Session, StatementAnswer


@post("/v1/node/nonces", status_code=200, opt={"peers": (ANONYMOUS,)})
async def nonce(request: Request[Any, Any, Any]) -> Nonce:
    """A nonce for a session proof."""
    return sessions.make_nonce(core_of(request))


@post(sessions.PATH_SESSIONS, status_code=200, opt={"peers": (ANONYMOUS,)})
async def open_session(data: JSONBody[OpenSession], request: Request[Any, Any, Any]) -> Session:
    """A session certificate and the current statement, for a proof by the node key."""
    return await sessions.open_session(core_of(request), data)


@post("/v1/node/confirm", status_code=200, opt={"peers": (NODE,)})
async def confirm(data: JSONBody[Ask], request: Request[Any, Any, Any]) -> StatementAnswer:
    """Make the caller's generation the node's."""
    return await service.confirm(core_of(request), current_node(request), data)


@post("/v1/node/statement", status_code=200, opt={"peers": (NODE,)})
async def statement(data: JSONBody[Ask], request: Request[Any, Any, Any]) -> StatementAnswer:
    """The node's current statement."""
    return await statements.statement(core_of(request), current_node(request), data)


@get("/v1/node/events", opt={"peers": (NODE,)})
async def events(
    request: Request[Any, Any, Any],
    cursor: Annotated[int, QueryParameter(ge=0, le=SEQ_MAX)] = 0,
    wait: Annotated[int, QueryParameter(ge=0, le=EVENT_WAIT_SECONDS_MAX)] = 0,
) -> Events:
    """A hint that something changed since `cursor`: at once, after a change, or after `wait` seconds."""
    return await statements.events(core_of(request), current_node(request), cursor, wait)


HANDLERS = (nonce, open_session, confirm, statement, events)
