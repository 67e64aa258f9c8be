"""Pure functions: make the OpenAPI 3.1 documents of a service from its routes.

Litestar reads paths, operation ids, docstrings and parameters from the handlers. This module adds bodies, with schemas
of their msgspec structs, the problem codes of each operation, examples, and the callers that each operation admits.

A handler may say more in its `opt`, beside the peers:

    refuses   classes of the service's errors, or problem codes, that the use case can raise
    sends     `Binary` of the request's body, where the handler reads the body itself
    headers   headers of the request that the handler reads itself
    answers   `Binary` of the answer, where the handler returns a `Response[bytes]`
    also      other successful answers by status, where the handler returns a `Response` of one of several structs
"""

import inspect
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, cast, get_args, get_origin

import msgspec
from litestar import Litestar, Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import SkipValidation
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler

from cloud.http.admission import BUCKET, PROBES, Bucket, bucket_of
from cloud.http.conditions import CHANGING, tagged
from cloud.http.guard import OPERATOR, Admitted, peers_of
from protocol import openapi
from protocol.openapi import Json
from protocol.problems import CONTENT_TYPE, KINDS, Code, ProblemDocument, document

REFUSES = "refuses"
SENDS = "sends"
HEADERS = "headers"
ANSWERS = "answers"
ALSO = "also"
VERSION = "1.0.0"
"""Of every document: the API's version, not the product's. Its first number is the `/v1` of the paths."""

_GUARD_CODES: Mapping[str, tuple[Code, ...]] = {
    "anonymous": (),
    "operator": ("operator_required",),
    "node": ("peer_required", "peer_refused", "generation_closed"),
    "service": ("peer_required", "peer_refused"),
    "enrolling": ("enrolment_refused", "peer_refused"),
}
"""What the guard answers to a caller that is not admitted, by the kinds that a route admits (`cloud.http.guard`)."""
_JSON_CODES: tuple[Code, ...] = ("malformed", "invalid", "too_large", "unsupported_media_type")
_BINARY_CODES: tuple[Code, ...] = ("too_large", "unsupported_media_type")

_SECURITY_SCHEMES: Mapping[str, Json] = {
    "operator": {
        "type": "http",
        "scheme": "bearer",
        "description": "An operator's token, from `cascade init` or `cascade token create`.",
    },
    "node": {
        "type": "mutualTLS",
        "description": "The session certificate of a node (`POST /v1/node/sessions` of Fabric).",
    },
    "service": {
        "type": "mutualTLS",
        "description": "The certificate of a Cascade service. An operation lists the services that it admits.",
    },
    "enrolment": {
        "type": "http",
        "scheme": "basic",
        "description": "A service's name and its one-time secret (`cascade pki issue`), without a client certificate.",
    },
}


class Binary(msgspec.Struct, frozen=True):
    """A body that is not JSON: media type, what it holds, and the most bytes that a request may have."""

    media_type: str
    text: str
    bytes_max: int = 0


class Header(msgspec.Struct, frozen=True):
    """A header of a request: its name, what it says, a regular expression of its value, and whether it must be sent."""

    name: str
    text: str
    pattern: str = ""
    required: bool = False


_IF_MATCH = Header(
    "If-Match",
    "`ETag` of the object, as the caller has read it. The change is carried out on that state only.",
    required=True,
)
_IF_MATCH_CODES: tuple[Code, ...] = ("malformed", "if_match_required", "changed_since_read")
_COMMON_HEADERS: Mapping[str, Json] = {
    "X-Request-Id": {
        "description": "Id of the request, made by the service. The log and the audit have it too.",
        "schema": {"type": "string", "format": "uuid"},
        "required": True,
    },
    "RateLimit-Policy": {
        "description": 'The caller\'s own limit: `"NAME";q=REQUESTS;w=SECONDS`. Absent if the caller has none.',
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'What is left of it: `"NAME";r=REQUESTS;t=SECONDS until all of it is there again`.',
        "schema": {"type": "string"},
    },
}
_ETAG: Json = {
    "description": "Tag of the object in this state. A change of the object sends it in `If-Match`.",
    "schema": {"type": "string"},
    "required": True,
}


class Tag(msgspec.Struct, frozen=True):
    """A group of operations: those whose path begins with one of `prefixes`. The first tag that fits counts."""

    name: str
    text: str
    prefixes: tuple[str, ...]


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """What a document says besides its operations. `codes` maps the service's errors to problem codes."""

    name: str
    title: str
    text: str
    tags: tuple[Tag, ...]
    codes: Mapping[Any, Code]
    examples: Mapping[str, Any]


class ApiDocument:
    """The document of one application, made when it is first read."""

    def __init__(self, handlers: Sequence[ControllerRouterHandler], api: Api) -> None:
        self._handlers = handlers
        self._api = api
        self._encoded = b""
        self._making = threading.Lock()

    @property
    def encoded(self) -> bytes:
        """The document, as JSON."""
        # Making the document takes a second of CPU time. Readers that come meanwhile wait for the same document.
        with self._making:
            if not self._encoded:
                self._encoded = openapi.encoded(api_document(self._handlers, self._api))
        return self._encoded


@get(
    "/schema",
    sync_to_thread=True,
    opt={"peers": (OPERATOR,), BUCKET: PROBES, ANSWERS: Binary("application/json", "An OpenAPI 3.1 document.")},
)
def show_schema(schema_document: NamedDependency[SkipValidation[ApiDocument]]) -> Response[bytes]:
    """Show the API document of this listener.

    The document is made from the running code. `cascade schema` prints the same document without a server.
    """
    return Response(schema_document.encoded, media_type="application/json", headers={"Cache-Control": "no-store"})


def operation_options(
    *peers: Admitted,
    bucket: Bucket,
    refuses: tuple[type[Exception] | Code, ...] = (),
    sends: Binary | None = None,
    headers: tuple[Header, ...] = (),
    answers: Binary | None = None,
    also: Mapping[int, type[msgspec.Struct]] | None = None,
) -> dict[str, Any]:
    """The `opt` of a handler: the peers it admits, the bucket of their limits, and what its document says besides."""
    said = {REFUSES: refuses, SENDS: sends, HEADERS: headers, ANSWERS: answers, ALSO: also or {}}
    return {"peers": peers, BUCKET: bucket, **said}


def api_document(handlers: Sequence[ControllerRouterHandler], api: Api) -> Json:
    """The document of an application with these handlers."""
    config = OpenAPIConfig(
        title=api.title,
        version=VERSION,
        operation_id_creator=lambda handler, method, _: _operation_id(handler, HttpMethod(method).value),
        use_handler_docstrings=True,
        path="/unused",  # of the routes that Litestar adds to this application; `/schema` is ours
        render_plugins=[JsonRenderPlugin()],
    )
    app = Litestar(
        route_handlers=list(handlers),
        dependencies={name: _no_part() for name in sorted(_parts_of(handlers))},
        openapi_config=config,
        logging_config=None,
    )
    made = app.openapi_schema.to_schema()
    builder = _Builder(api)
    paths: Json = {}
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        found = made["paths"].get(route.path_format, {})
        for method, (handler, _) in route.route_handler_map.items():
            if str(method).lower() in found and handler.resolve_include_in_schema():
                operation = builder.operation(route.path_format, handler, found[str(method).lower()])
                paths.setdefault(route.path_format, {})[str(method).lower()] = operation
    whole: Json = {
        "openapi": openapi.OPENAPI,
        "info": {"title": api.title, "version": VERSION, "description": api.text, "license": _LICENSE},
        "servers": [{"url": "/", "description": "The listener that answers these paths."}],
        "tags": [{"name": tag.name, "description": tag.text} for tag in api.tags],
        "paths": paths,
        "components": builder.components(),
    }
    return _with_common_headers(openapi.without_unused(whole))


def _with_common_headers(document: Json) -> Json:
    """The document with the headers that every answer has."""
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    places = [document["components"]["responses"], *(operation["responses"] for operation in operations)]
    for response in (each for responses in places for each in responses.values() if "$ref" not in each):
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _COMMON_HEADERS}
        response["headers"] = {**headers, **response.get("headers", {})}
    document["components"]["headers"] = dict(_COMMON_HEADERS)
    return document


def _no_part() -> Provide:
    """A provider in the place of a part of the service. Litestar wants one function a name."""
    return Provide(lambda: None, sync_to_thread=False)


def _parts_of(handlers: Iterable[ControllerRouterHandler]) -> set[str]:
    """Names of the parts that the handlers take."""
    found: set[str] = set()
    for each in handlers:
        if isinstance(each, Router):
            routes = [route for route in each.routes if isinstance(route, HTTPRoute)]
            found |= _parts_of(handler for route in routes for handler in route.route_handlers)
        elif isinstance(each, HTTPRouteHandler):
            fields = each.parsed_fn_signature.parameters.items()
            found |= {name for name, field in fields if field.is_di_field}
    return found


_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def _operation_id(handler: HTTPRouteHandler, method: str) -> str:
    """The handler's name; with the method where a handler has more than one."""
    methods = handler.http_methods
    return handler.handler_name if len(methods) == 1 or method == "GET" else f"{handler.handler_name}_{method.lower()}"


class _Builder:
    """Completes operations, and collects what they refer to."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._structs: dict[Any, None] = {ProblemDocument: None}
        self._codes: set[Code] = set()
        self._schemes: set[str] = set()

    def operation(self, path: str, handler: HTTPRouteHandler, made: Json) -> Json:
        """The operation of a handler. `made` is what Litestar says of it."""
        summary, text = openapi.texts_of(made.get("description"))
        codes = self._codes_of(handler, made)
        self._codes |= codes
        operation: Json = {
            "operationId": made["operationId"],
            "summary": summary,
            "description": text,
            "tags": [self._tag_of(path)],
            "security": self._security_of(handler),
            "responses": {
                **_kept_responses(made),
                **self._success(handler),
                **_problem_responses(codes),
            },
        }
        headers: tuple[Header, ...] = handler.opt.get(HEADERS) or ()
        if CHANGING & handler.http_methods:
            headers = (*headers, _IF_MATCH)
        parameters = [*map(_tidied, made.get("parameters", ())), *map(_header_parameter, headers)]
        if parameters:
            operation["parameters"] = parameters
        body = self._request_body(handler)
        if body is not None:
            operation["requestBody"] = body
        return operation

    def components(self) -> Json:
        """Everything that the operations refer to."""
        schemas = openapi.schemas(self._structs, inspect.getsource)
        schemas[openapi.PROBLEM_SCHEMA] = schemas.pop(ProblemDocument.__name__) | {"title": openapi.PROBLEM_SCHEMA}
        return {
            "schemas": schemas,
            **openapi.problem_components(_refusals(self._codes), CONTENT_TYPE),
            "securitySchemes": {name: _SECURITY_SCHEMES[name] for name in self._schemes},
        }

    def _codes_of(self, handler: HTTPRouteHandler, made: Json) -> set[Code]:
        """Every problem code that the operation can answer."""
        codes: set[Code] = {"internal", "invalid"}  # a parameter of the query that the operation does not have
        for peer in peers_of(handler):
            codes.update(_GUARD_CODES[peer.kind])
        signature = handler.parsed_fn_signature.parameters
        if any(field.is_di_field for field in signature.values()):
            codes.add("unavailable")
        bucket = bucket_of(handler)
        if bucket is not None and bucket.each is not None:
            codes.add("rate_limited")
        if CHANGING & handler.http_methods:
            codes.update(_IF_MATCH_CODES)
        if "data" in signature:
            codes.update(_JSON_CODES)
        if handler.opt.get(SENDS) is not None:
            codes.update(_BINARY_CODES)
        places = {parameter["in"] for parameter in made.get("parameters", ())}
        if "path" in places:
            codes.add("not_found")  # the application refuses characters that cannot be printed
        for refused in handler.opt.get(REFUSES, ()):
            codes.add(cast(Code, refused) if isinstance(refused, str) else self._api.codes[refused])
        return codes

    def _tag_of(self, path: str) -> str:
        for tag in self._api.tags:
            if path.startswith(tag.prefixes):
                return tag.name
        raise LookupError(f"no tag fits the path {path}: add one to the API's tags")

    def _security_of(self, handler: HTTPRouteHandler) -> list[Json]:
        """One entry a way to be admitted; an empty object where no credentials are needed."""
        found: list[Json] = []
        for peer in peers_of(handler):
            name = {"enrolling": "enrolment"}.get(peer.kind, peer.kind)
            if peer.kind == "anonymous":
                found.append({})
                continue
            self._schemes.add(name)
            found.append({name: [peer.name] if peer.name else []})
        return found

    def _success(self, handler: HTTPRouteHandler) -> Json:
        binary: Binary | None = handler.opt.get(ANSWERS)
        if binary is not None:
            content: Json = {binary.media_type: {"schema": _binary_schema(binary)}}
            return {str(handler.status_code): {"description": binary.text, "content": content}}
        also: Mapping[int, Any] = handler.opt.get(ALSO) or {}
        structs = {handler.status_code: _first_struct(handler.parsed_fn_signature.return_type.annotation), **also}
        return {
            str(status): {
                "description": openapi.texts_of(struct_docstring(struct))[1],
                "content": self._json_content(struct),
                **({"headers": {"ETag": _ETAG}} if handler.after_request is tagged else {}),
            }
            for status, struct in structs.items()
        }

    def _request_body(self, handler: HTTPRouteHandler) -> Json | None:
        data = handler.parsed_fn_signature.parameters.get("data")
        if data is not None:
            return {"required": True, "content": self._json_content(data.annotation)}
        binary: Binary | None = handler.opt.get(SENDS)
        if binary is None:
            return None
        content = {binary.media_type: {"schema": _binary_schema(binary)}}
        return {"required": True, "description": binary.text, "content": content}

    def _json_content(self, struct: Any) -> Json:
        self._structs[struct] = None
        example = openapi.example(struct, self._api.examples)
        return {"application/json": {"schema": openapi.schema_ref(struct), "example": example}}


def _first_struct(annotation: Any) -> Any:
    """The struct that a handler returns with its own status: the first one of a `Response[A | B]`."""
    if get_origin(annotation) is not Response:
        return annotation
    (content,) = get_args(annotation)
    return get_args(content)[0] if get_origin(content) is UnionType else content


def struct_docstring(struct: Any) -> str:
    """The docstring of a struct, also of a generic one with its arguments."""
    return str(getattr(struct, "__origin__", struct).__doc__)


def _binary_schema(binary: Binary) -> Json:
    """The schema of a body that is passed on as bytes: an object if they are JSON, else a string."""
    if binary.media_type == "application/json":
        return {"type": "object"}
    schema: Json = {"type": "string", "contentMediaType": binary.media_type}
    return {**schema, "maxLength": binary.bytes_max} if binary.bytes_max else schema


def _header_parameter(header: Header) -> Json:
    schema = {"type": "string", "pattern": header.pattern} if header.pattern else {"type": "string"}
    return {
        "name": header.name,
        "in": "header",
        "required": header.required,
        "description": header.text,
        "schema": schema,
    }


def _tidied(parameter: Json) -> Json:
    """A parameter of Litestar's without the members that say nothing, and with its description in one place."""
    schema = {key: value for key, value in parameter["schema"].items() if key != "description"}
    return {key: value for key, value in parameter.items() if value is not False} | {
        "schema": schema,
        "required": parameter["required"],
    }


def _kept_responses(made: Json) -> Json:
    """Responses that a handler lists itself (`responses=`) and that are no refusals: 304, for one."""
    return {status: each for status, each in made.get("responses", {}).items() if status.startswith("3")}


def _refusals(codes: Iterable[Code]) -> list[openapi.Refusal]:
    return [
        openapi.Refusal(code, KINDS[code].status, KINDS[code].title, document(KINDS[code], "Why, in one sentence."))
        for code in sorted(codes)
    ]


def _problem_responses(codes: Iterable[Code]) -> Json:
    return openapi.problem_responses(_refusals(codes), CONTENT_TYPE)
