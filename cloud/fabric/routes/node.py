"""Routes: sessions, statements and the wake channel of nodes.

Nonces and sessions need no client certificate. Every other route needs a session certificate.
"""

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from cloud.fabric import errors
from cloud.fabric.routes import buckets
from cloud.fabric.service.nodes.confirm import Confirmations
from cloud.fabric.service.nodes.release import Releases
from cloud.fabric.service.nodes.sessions import PATH_SESSIONS, Sessions
from cloud.fabric.service.nodes.statement import Statements
from cloud.http.app import Wired
from cloud.http.exchange import long_poll
from cloud.http.guard import ANONYMOUS, NODE, current_node, host_of
from cloud.http.openapi import operation_options
from protocol.limits import EVENT_WAIT_SECONDS_MAX, SEQ_MAX
from protocol.messages.sessions import Ask, Events, Nonce, OpenSession, Session, StatementAnswer

Asked = Request[Any, Any, Any]
Known = Annotated[
    int,
    QueryParameter(ge=0, le=SEQ_MAX, description="Position of the wake channel that the node knows, 0 for none."),
]
Wait = Annotated[
    int,
    QueryParameter(
        ge=0, le=EVENT_WAIT_SECONDS_MAX, description="Longest wait for a change, in seconds. 0 answers at once."
    ),
]


@post("/v1/node/nonces", status_code=200, opt=operation_options(ANONYMOUS, bucket=buckets.SESSION))
async def create_nonce(sessions: Wired[Sessions]) -> Nonce:
    """Create a nonce for a session proof.

    Fabric stores nothing: the nonce carries its own end and a MAC.
    """
    return sessions.make_nonce()


@post(
    PATH_SESSIONS,
    status_code=200,
    opt=operation_options(
        ANONYMOUS,
        bucket=buckets.SESSION,
        refuses=(
            errors.CertificateRefused,
            errors.NodeUnknown,
            errors.ProofRefused,
            errors.Invalid,
            errors.GenerationClosed,
            errors.HolderRefused,
            errors.TooOften,
            errors.FingerprintRefused,
            errors.QuoteRefused,
            errors.CsrRefused,
            errors.IssuerUnavailable,
        ),
    ),
)
async def open_session(data: JSONBody[OpenSession], request: Asked, sessions: Wired[Sessions]) -> Session:
    """Open a session.

    The node proves with its node key that it holds the device certificate. It gets a session certificate, its current
    statement, and a renewal token to present in its next session. A repeated proof gets the same certificate and token.
    A suspected copy of the node gets its signed statement only.
    """
    return await sessions.open_session(data, host_of(request))


@post(
    "/v1/node/confirm",
    status_code=200,
    opt=operation_options(
        NODE,
        bucket=buckets.NODE,
        refuses=(
            errors.Invalid,
            errors.GenerationClosed,
            errors.NodeUnknown,
            errors.Conflict,
            errors.CodeRefused,
            errors.CodeExpired,
            errors.CodeRevoked,
            errors.RecoveryRefused,
            errors.TierNotAllowed,
            errors.TpmRequired,
            errors.SessionOutdated,
        ),
    ),
)
async def confirm_generation(
    data: JSONBody[Ask], request: Asked, confirmations: Wired[Confirmations]
) -> StatementAnswer:
    """Confirm the generation of the session certificate.

    From then on this generation is the node's, and older ones are closed. A repeat changes nothing.
    """
    return await confirmations.confirm(current_node(request), data)


@post(
    "/v1/node/statement",
    status_code=200,
    opt=operation_options(
        NODE,
        bucket=buckets.NODE,
        refuses=(
            errors.Invalid,
            errors.GenerationClosed,
            errors.NodeUnknown,
            errors.Conflict,
            errors.SessionOutdated,
        ),
    ),
)
async def fetch_statement(data: JSONBody[Ask], request: Asked, statements: Wired[Statements]) -> StatementAnswer:
    """Fetch the current statement of the node.

    Fabric signs a lease again when the stored one is due for refresh.
    """
    return await statements.statement(current_node(request), data)


@post(
    "/v1/node/release",
    status_code=200,
    opt=operation_options(
        NODE,
        bucket=buckets.NODE,
        refuses=(
            errors.Invalid,
            errors.GenerationClosed,
            errors.NodeUnknown,
            errors.Conflict,
            errors.SessionOutdated,
        ),
    ),
)
async def release_own_node(data: JSONBody[Ask], request: Asked, releases: Wired[Releases]) -> StatementAnswer:
    """Hand the seat of the node back.

    Every generation of the node is revoked with the reason `released`, and its seat is free. A suspended node stays
    suspended. A repeat is refused as `generation_closed`, with the same revocation. The answer is the revocation.
    """
    return await releases.release(current_node(request), data)


@get(
    "/v1/node/events",
    opt=operation_options(NODE, bucket=buckets.NODE, refuses=(errors.NodeUnknown, errors.Conflict, errors.TooOften)),
)
async def wait_for_events(request: Asked, statements: Wired[Statements], cursor: Known = 0, wait: Wait = 0) -> Events:
    """Wait for a change (the wake channel).

    Fabric answers at once if the position differs from `cursor`. Otherwise it answers after a change, or after `wait`
    seconds. The answer is a hint: the node then fetches its statement. A node has at most two polls; a further poll ends
    the oldest with `rate_limited`.
    """
    with long_poll(request.scope, wait):
        return await statements.events(current_node(request), cursor, wait)


HANDLERS = (
    create_nonce,
    open_session,
    confirm_generation,
    fetch_statement,
    release_own_node,
    wait_for_events,
)
