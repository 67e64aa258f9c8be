"""Maps exceptions to answers: refusals and faults become problem documents (RFC 9457).

A service raises `Refusal("code_refused", "...")`. Every other exception of a handler, such as an exception of Litestar
or a fault, becomes a problem of a kind of `protocol.problems`. The text of a fault is logged and never sent to the
caller.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import Method

from cloud.tasks.current_request import current_request
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
    412: "changed_since_read",
    415: "unsupported_media_type",
    422: "invalid",
    428: "if_match_required",
    429: "rate_limited",
    503: "unavailable",
}
_METHODS: tuple[Method, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Refusal(Exception):
    """A request is refused, and the caller may know the reason. `statement` and `freshness` are signed documents.

    A repeat may succeed from `allowed_at` on; None if no rule sets a time.
    """

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        statement: str = "",
        freshness: str = "",
        headers: Mapping[str, str] | None = None,
        allowed_at: datetime | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code: Code = code
        self.detail = detail
        self.statement = statement
        self.freshness = freshness
        self.headers = dict(headers or {})
        self.allowed_at = allowed_at

    def document(self) -> ProblemDocument:
        """Return the body of the answer."""
        request = current_request()
        instance = request.instance if request is not None else ""
        return document(KINDS[self.code], self.detail, self.statement, self.freshness, self.allowed_at, instance)


class _ValidationDetail(msgspec.Struct):
    """One entry of Litestar's list of errors in a request's parameters."""

    message: str = ""
    key: str = ""


def _validation_detail(error: HTTPException) -> str:
    """Return a text with the first errors of Litestar's list and their places. It does not repeat the values."""
    try:
        entries = msgspec.convert(error.extra or [], list[_ValidationDetail])
    except msgspec.ValidationError:
        return ""
    return "; ".join(f"{entry.key}: {entry.message}" if entry.key else entry.message for entry in entries[:5])


def refusal_of(error: Exception) -> Refusal:
    """Return the refusal that answers an exception. An unknown exception becomes `internal`."""
    if isinstance(error, Refusal):
        return error
    if not isinstance(error, HTTPException) or error.status_code not in _CODE_OF_STATUS:
        return Refusal("internal")
    code = _CODE_OF_STATUS[error.status_code]
    if isinstance(error, ValidationException):
        detail = _validation_detail(error)
        return Refusal("malformed", "the body is empty") if detail == "data: 'data'" else Refusal("invalid", detail)
    if code == "too_large":
        return Refusal(code, f"a body has at most {REQUEST_BODY_BYTES_MAX} bytes")
    return Refusal(code)


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer any exception.

    This is Litestar's exception handler: `Litestar(exception_handlers={Exception: handle, ...})`.
    """
    refusal = refusal_of(error)
    if refusal.code == "internal":
        log.error("internal error", exc_info=error, extra={"method": request.method, "path": request.url.path})
    if refusal.code == "method_not_allowed":
        refusal.headers["Allow"] = ", ".join(_methods_of(request))
    return answer(refusal)


def _methods_of(request: Request[Any, Any, Any]) -> list[str]:
    """Return the methods that a path answers to. RFC 9110 section 15.5.6 requires them in the answer."""
    methods: list[str] = []
    for method in _METHODS:
        try:
            request.app.asgi_router.handle_routing(path=request.scope["path"], method=method)
        except HTTPException:
            continue
        methods.append(str(method))
    return methods


def answer(refusal: Refusal) -> Response[bytes]:
    """Return the HTTP answer of a refusal."""
    return Response(
        content=msgspec.json.encode(refusal.document()),
        status_code=KINDS[refusal.code].status,
        media_type=CONTENT_TYPE,
        headers={"Cache-Control": "no-store", **refusal.headers},
    )


def plain_answer(code: Code, detail: str = "") -> bytes:
    """Return a whole HTTP/1.1 answer that ends the connection, for requests that never reach the application.

    Bytes that are no request have no id, so their answer has none.
    """
    refusal = Refusal(code, detail)
    kind = KINDS[code]
    body = msgspec.json.encode(refusal.document())
    head = (
        f"HTTP/1.1 {kind.status} {kind.title}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
