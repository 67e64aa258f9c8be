"""Wiring: makes a service's Litestar application, with one guard, one mapping of errors and strictly decoded bodies.

Litestar itself reads a body of any content type and converts its values ("1" becomes 1). Applications made here accept
JSON only, and decode it strictly into the handler's type, in one step. They have no routes but those of the service.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler
from litestar.params import CookieParameter, HeaderParameter, QueryParameter, SkipValidation
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send

from cloud.http.bounds import OutOfBounds, Unbounded, checker
from cloud.http.conditions import require_if_match
from cloud.http.cursors import LIST_CURSORS, ListCursors
from cloud.http.guard import Guard, judge_again
from cloud.http.metrics import Metrics, measured, read_metrics
from cloud.http.openapi import ApiDocument, show_schema
from cloud.http.problems import Refusal, answer, handle
from cloud.http.readiness import Readiness, read_readiness
from cloud.storage.errors import (
    DatabaseBusy,
    DatabaseNotWritable,
    DatabaseUnavailable,
    StorageNotOpen,
    TransactionLost,
)
from cloud.storage.waits import waits_of_request
from protocol.limits import REQUEST_BODY_BYTES_MAX

log = logging.getLogger("cascade.web")

QUERY_NAMES = "query_names"
"""Key of a handler's `opt`: the names of the parameters of its query."""
QUERY_NAME_CHARS_MAX = 64
"""Characters of an unknown parameter's name that a refusal repeats."""


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON body is decoded strictly into the type of the handler's `data`."""

    async def body(self) -> bytes:
        """Return the body, if the caller is still admitted when the last byte has arrived. Raises Refusal."""
        body = await super().body()
        await judge_again(self)
        return body

    async def json(self) -> Any:
        """Return the body as the handler's type.

        Raises:
            Refusal: `unsupported_media_type`, `malformed` (not JSON) or `invalid` (JSON of another shape, or a
                text, number or date out of bounds).
        """
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Refusal("unsupported_media_type", "send application/json")
        field = self.route_handler.parsed_data_field
        body = await self.body()
        kind = field.annotation if field is not None else Any
        try:
            value = msgspec.json.decode(body, type=kind, strict=True)
            checker(kind)(value, "body")
            return value
        except (msgspec.ValidationError, OutOfBounds) as error:
            raise Refusal("invalid", str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal("malformed", "the body is not JSON") from error


T = TypeVar("T")
Wired = NamedDependency[SkipValidation[T]]
"""Type of a handler's parameter. Its value is the part of the service that has the parameter's name."""

AsyncGuard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]
OnError = Callable[[Exception, Scope], Awaitable[None]]
"""Called with the exception of a handler or of the guard, before the answer is sent."""


def _provider(service: object) -> Provide:
    """Return a provider without parameters. Litestar would read a parameter's value from the query."""

    def provide() -> object:
        return service

    return Provide(provide, use_cache=True, sync_to_thread=False)


def _away(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer 503 when the database cannot be used.

    This is not a bug, so no traceback is logged: callers could fill the log with tracebacks.
    """
    log.error("cannot answer: the database is not available", extra={"path": request.url.path, "error": str(error)})
    if isinstance(error, DatabaseNotWritable):
        return answer(Refusal("unavailable", "the database stores nothing just now", headers={"Retry-After": "10"}))
    return answer(Refusal("unavailable", "the database is not available", headers={"Retry-After": "1"}))


def bounded_waits(app: ASGIApp) -> ASGIApp:
    """Middleware: the waits of one request for the database share one limit."""

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        with waits_of_request():
            await app(scope, receive, send)

    return bounded


def _require_bounds(handler: BaseRouteHandler) -> None:
    """Check that the parameters of a handler's query and its body have bounds. Raises Unbounded.

    A path parameter needs none: the guard checks it, and the handler parses it.
    """
    for name, field in handler.parsed_fn_signature.parameters.items():
        place = f"{handler.handler_name}({name})"
        if name == "data":
            checker(field.annotation)
        elif isinstance(given := field.kwarg_definition, QueryParameter | HeaderParameter | CookieParameter):
            if field.annotation is bool:
                bounded = True
            elif field.annotation is int:
                bounded = given.ge is not None and given.le is not None
            else:
                bounded = given.max_length is not None and given.pattern is not None
            if not bounded:
                raise Unbounded(f"{place}: a parameter needs ge and le, or max_length and pattern")


def _query_names(handler: BaseRouteHandler) -> frozenset[str]:
    """Return the names of the parameters that a handler reads from the query."""
    return frozenset(
        given.name or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(given := field.kwarg_definition, QueryParameter)
    )


def _check_query(connection: ASGIConnection[Any, Any, Any, Any], known: frozenset[str]) -> None:
    """Refuse a query with a parameter that the route does not have, or with one parameter twice. Raises Refusal.

    A filter that a server does not know selects nothing, so its caller would act on the wrong list.
    """
    seen: set[str] = set()
    for name, _ in connection.query_params.multi_items():
        shown = name[:QUERY_NAME_CHARS_MAX] if name.isprintable() else "(not printable)"
        if name not in known:
            raise Refusal("invalid", f"query: this route has no parameter {shown!r}")
        if name in seen:
            raise Refusal("invalid", f"query: the parameter {shown!r} was sent twice")
        seen.add(name)


def _guarding(guard: Guard, list_cursors: ListCursors | None) -> AsyncGuard:
    """Return the only guard of the application. For each guard, Litestar copies the handler at every request.

    No object has an id or a name with a character that cannot be printed, so such a path is refused (`not_found`).
    """

    async def admit(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        await guard(connection, handler)
        if connection.scope["query_string"]:
            _check_query(connection, handler.opt.get(QUERY_NAMES, frozenset()))
        if not all(value.isprintable() for value in connection.path_params.values() if isinstance(value, str)):
            raise Refusal("not_found")
        require_if_match(connection)
        if list_cursors is not None:
            connection.scope["state"][LIST_CURSORS] = list_cursors

    return admit


def make_app(
    handlers: Sequence[ControllerRouterHandler],
    guard: Guard,
    *,
    services: Mapping[str, object] | None = None,
    metrics: Metrics | None = None,
    on_error: OnError | None = None,
    schema: ApiDocument | None = None,
    list_cursors: ListCursors | None = None,
) -> Litestar:
    """Make the application of a service.

    A handler takes a part of `services` by name, as a parameter of the type `Wired[X]`. With `metrics`, the application
    measures the time of its requests. `on_error` sees every exception before it is answered. With `schema`, operators
    can read that document at `/schema`. `list_cursors` signs the cursors of operators' lists.
    """
    parts = dict(services or {})
    if schema is not None:
        parts["schema_document"] = schema
    app = Litestar(
        route_handlers=[
            *handlers,
            *([show_schema] if schema is not None else []),
        ],
        guards=[_guarding(guard, list_cursors)],
        middleware=[*([measured(metrics)] if metrics is not None else []), bounded_waits],
        dependencies={name: _provider(service) for name, service in parts.items()},
        after_exception=[on_error] if on_error is not None else [],
        before_send=[guard.before_answer],
        exception_handlers={
            HTTPException: handle,
            DatabaseUnavailable: _away,
            DatabaseBusy: _away,
            TransactionLost: _away,
            StorageNotOpen: _away,
            Exception: handle,
        },
        request_class=StrictRequest,
        request_max_body_size=REQUEST_BODY_BYTES_MAX,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            _require_bounds(handler)
            handler.opt[QUERY_NAMES] = _query_names(handler)
    return app


def make_metrics_app(guard: Guard, metrics: Metrics, readiness: Readiness) -> Litestar:
    """Make the application of the listener with the purpose "metrics". It has `/metrics`, and `/readyz` in full."""
    services = {"service_metrics": metrics, "readiness": readiness}
    return make_app((read_metrics, read_readiness), guard, services=services)
