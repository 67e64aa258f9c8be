"""Factory of a service's Litestar application: one guard, one mapping of errors, strict bodies, no extra routes.

Litestar itself reads a body of any content type and coerces its values ("1" becomes 1). Here a body has the content type
of JSON and is decoded strictly into the handler's type, in one step.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from litestar import Litestar, Request, Response
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.params import SkipValidation
from litestar.types import ControllerRouterHandler, Scope

from cloud.http.guard import Guard, judge_again
from cloud.http.metrics import Metrics, measured, metrics_route
from cloud.http.problems import Refusal, answer, handle
from cloud.storage.errors import DatabaseBusy, DatabaseUnavailable
from protocol.limits import REQUEST_BODY_BYTES_MAX

log = logging.getLogger("cascade.web")


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON body is decoded strictly into the type of the handler's `data`."""

    async def body(self) -> bytes:
        """The body, if the caller is still admitted when its last byte has arrived. Raises Refusal."""
        body = await super().body()
        await judge_again(self)
        return body

    async def json(self) -> Any:
        """The body as the handler's type.

        Raises:
            Refusal: `unsupported_media_type`, `malformed` (not JSON), `invalid` (JSON of another shape).
        """
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Refusal("unsupported_media_type")
        field = self.route_handler.parsed_data_field
        body = await self.body()
        try:
            return msgspec.json.decode(body, type=field.annotation if field is not None else Any, strict=True)
        except msgspec.ValidationError as error:
            raise Refusal("invalid", str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal("malformed", "the body is not JSON") from error


T = TypeVar("T")
Wired = NamedDependency[SkipValidation[T]]
"""A handler's parameter that takes the part of the service with the parameter's name."""

OnError = Callable[[Exception, Scope], Awaitable[None]]
"""Called with what a handler or the guard raised, before it is answered."""


def _provider(service: object) -> Provide:
    """Without a parameter: Litestar would read one from the query."""

    def provide() -> object:
        return service

    return Provide(provide, use_cache=True, sync_to_thread=False)


def _away(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The database cannot be used now. That is no bug, and strangers must not fill the log with tracebacks."""
    log.error("the database cannot be used", extra={"path": request.url.path, "error": str(error)})
    return answer(Refusal("unavailable", "the database cannot be used just now", headers={"Retry-After": "1"}))


def make_app(
    handlers: Sequence[ControllerRouterHandler],
    guard: Guard,
    *,
    services: Mapping[str, object] | None = None,
    metrics: Metrics | None = None,
    on_error: OnError | None = None,
) -> Litestar:
    """The application of a service.

    Handlers take what they need of `services` by name, as a parameter of the type `Wired[X]`.
    With `metrics` it has the route `/metrics` and times its requests.
    """
    parts = dict(services or {})
    if metrics is not None:
        parts["service_metrics"] = metrics
    return Litestar(
        route_handlers=[*handlers, *([metrics_route] if metrics is not None else [])],
        guards=[guard],
        middleware=[measured(metrics)] if metrics is not None else [],
        dependencies={name: _provider(service) for name, service in parts.items()},
        after_exception=[on_error] if on_error is not None else [],
        exception_handlers={
            HTTPException: handle,
            DatabaseUnavailable: _away,
            DatabaseBusy: _away,
            Exception: handle,
        },
        request_class=StrictRequest,
        request_max_body_size=REQUEST_BODY_BYTES_MAX,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
