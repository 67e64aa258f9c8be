"""Mapping of exceptions to answers: refusals and faults as problem documents (RFC 9457).

A service raises `Refusal("code_refused", "...")`. Every other exception that leaves a handler (Litestar's own, a fault)
becomes a kind of `protocol.problems` here. The text of a fault goes to the log, never to the caller.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import Method

from protocol.limits import REQUEST_BODY_BYTES_MAX
from protocol.problems import CONTENT_TYPE, KINDS, Code, ProblemDocument, document

log = logging.getLogger("cascade.problems")

_CODE_OF_STATUS: dict[int, Code] = {
    400: "malformed",
    401: "peer_required",
    403: "peer_refused",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "rate_limited",
    503: "unavailable",
}
_METHODS: tuple[Method, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Refusal(Exception):
    """A request is refused for a reason that the caller may know. `statement` and `freshness` are signed documents."""

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        statement: str = "",
        freshness: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code: Code = code
        self.detail = detail
        self.statement = statement
        self.freshness = freshness
        self.headers = dict(headers or {})

    def document(self) -> ProblemDocument:
        """The body of the answer."""
        return document(KINDS[self.code], self.detail, self.statement, self.freshness)


class _ValidationDetail(msgspec.Struct):
    """One entry of Litestar's list of what is wrong with a request's parameters."""

    message: str = ""
    key: str = ""


def _validation_detail(error: HTTPException) -> str:
    """What is wrong and where, from Litestar's list; the values themselves are not repeated."""
    try:
        entries = msgspec.convert(error.extra or [], list[_ValidationDetail])
    except msgspec.ValidationError:
        return ""
    return "; ".join(f"{entry.key}: {entry.message}" if entry.key else entry.message for entry in entries[:5])


def refusal_of(error: Exception) -> Refusal:
    """The refusal that answers an exception. Everything unknown is `internal`."""
    if isinstance(error, Refusal):
        return error
    if not isinstance(error, HTTPException) or error.status_code not in _CODE_OF_STATUS:
        return Refusal("internal")
    code = _CODE_OF_STATUS[error.status_code]
    if isinstance(error, ValidationException):
        detail = _validation_detail(error)
        return Refusal("malformed", "the body is empty") if detail == "data: 'data'" else Refusal("invalid", detail)
    if code == "too_large":
        return Refusal(code, f"at most {REQUEST_BODY_BYTES_MAX} bytes are read")
    return Refusal(code)


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything: `Litestar(exception_handlers={Exception: handle, ...})`."""
    refusal = refusal_of(error)
    if refusal.code == "internal":
        log.error("internal", exc_info=error, extra={"method": request.method, "path": request.url.path})
    if refusal.code == "method_not_allowed":
        refusal.headers["Allow"] = ", ".join(_methods_of(request))
    return answer(refusal)


def _methods_of(request: Request[Any, Any, Any]) -> list[str]:
    """What a path does answer to (RFC 9110 section 15.5.6 wants it said)."""
    methods: list[str] = []
    for method in _METHODS:
        try:
            request.app.asgi_router.handle_routing(path=request.scope["path"], method=method)
        except HTTPException:
            continue
        methods.append(str(method))
    return methods


def answer(refusal: Refusal) -> Response[bytes]:
    """The HTTP answer of a refusal."""
    return Response(
        content=msgspec.json.encode(refusal.document()),
        status_code=KINDS[refusal.code].status,
        media_type=CONTENT_TYPE,
        headers={"Cache-Control": "no-store", **refusal.headers},
    )


def plain_answer(code: Code, detail: str = "") -> bytes:
    """A whole HTTP/1.1 answer that ends the connection, for what never reaches the application."""
    refusal = Refusal(code, detail)
    kind = KINDS[code]
    body = msgspec.json.encode(refusal.document())
    head = (
        f"HTTP/1.1 {kind.status} {kind.title}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
