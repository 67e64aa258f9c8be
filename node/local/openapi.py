"""Pure functions: the API document of the local socket, made from the table of its routes.

The socket does not serve the document; `cascadia schema` prints it.
"""

import inspect
from typing import Any

import msgspec

from node.local.exchange import REQUEST_BYTES_MAX
from node.local.messages import LocalProblem
from node.local.routes import METHOD_NOT_ALLOWED, NOT_FOUND, ROUTES, QueryParameter, Refused, Route
from node.local.server import COMMAND_SECONDS_MAX, REQUEST_SECONDS_MAX
from protocol import openapi
from protocol.limits import AIRGAP_CARRIED_BYTES_MAX, ENTITLEMENT_NAME_CHARS_MAX
from protocol.openapi import Json

VERSION = "1.0.0"
PROBLEM_TYPE = "application/problem+json"
TIMEOUT = Refused(504, "timeout", f"the agent did not finish within {COMMAND_SECONDS_MAX:.0f} seconds")

EXAMPLES: dict[str, Any] = {
    "state": "active",
    "gate": "open",
    "new_work": True,
    "reason": "the lease is current",
    "next": "",
    "exit_code": 0,
    "flags": [],
    "damaged": [],
    "name": "vision",
    "granted": True,
    "version": "0.1.0",
    "mode": "production",
    "hardware": "ours",
    "agent_running": True,
    "failures": 0,
    "limits": "A revocation takes effect when it reaches this machine.",
    "tenant": openapi.example_id("ten"),
    "node": openapi.example_id("node"),
    "trust_domain": "cascade.internal",
    "tier": "attested",
    "profile": "kiosk",
    "entitlements": ["vision"],
    "notify_at": [],
    "entitlement_terms": [],
    "final_reason": "",
    "recovery": "",
    "why": "granted",
    "limit": 8,
    "attributes": {"site": "north"},
    "notice": "",
    "request": openapi.example_id("agr"),
    "kind": "refresh",
    "cursor": "6f1c2a9b04d3e875-3",
    "changed": True,
    "file": '{"document":"cascade-airgap-request"}',
}
"""Field name -> value, for examples of bodies."""

_PROBLEM = {"$ref": f"#/components/schemas/{openapi.PROBLEM_SCHEMA}"}
_FAILED = LocalProblem(title="cannot reach the cloud", status=503, code="cloud_unreachable")

_TEXT = (
    "Licence and entitlements of this machine, for licensed software and for the command line.\n\nThe agent listens on "
    "a unix socket, /run/cascadia/cascadia.sock by default. It speaks HTTP/1.1, one request a connection. Every local "
    "user can read. Commands are for root and the agent's own user, whom the kernel names (SO_PEERCRED).\n\n"
    f"A request has at most {REQUEST_BYTES_MAX} bytes (else 413), an imported file "
    f"{AIRGAP_CARRIED_BYTES_MAX}. A request arrives within {REQUEST_SECONDS_MAX:.0f} seconds "
    f"(else 408). `{NOT_FOUND.code}` (404) answers other paths, `{METHOD_NOT_ALLOWED.code}` (405) other methods. When "
    "connections are short, `busy` (503) answers the longest idle one of the user who holds most. `internal` (500) "
    "answers a request that the agent cannot answer because of a fault."
)


def document() -> Json:
    """The OpenAPI 3.1 document of the socket."""
    paths: Json = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    structs = {LocalProblem, *(struct for route in ROUTES for struct in route.answers.values())}
    schemas = openapi.schemas(sorted(structs, key=lambda each: each.__name__), inspect.getsource)
    schemas[openapi.PROBLEM_SCHEMA] = schemas.pop(LocalProblem.__name__) | {"title": openapi.PROBLEM_SCHEMA}
    refusals = {refused.code: _refusal(refused) for route in ROUTES for refused in _refusals_of(route)}
    whole: Json = {
        "openapi": openapi.OPENAPI,
        "info": {
            "title": "Cascadia local socket",
            "version": VERSION,
            "description": _TEXT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://cascadia", "description": "The unix socket; a client may name any host."}],
        "tags": [
            {"name": "license", "description": "Reading: for every local user."},
            {"name": "commands", "description": "Commands: for root and the agent's own user."},
        ],
        "paths": paths,
        "components": {"schemas": schemas, **openapi.problem_components(refusals.values(), PROBLEM_TYPE)},
    }
    return openapi.without_unused(whole)


def _operation(route: Route) -> Json:
    summary, text = openapi.texts_of(route.answer.__doc__)
    operation: Json = {
        "operationId": route.answer.__name__,
        "summary": summary,
        "description": text,
        "tags": ["commands" if route.is_command else "license"],
        "security": [],
        "responses": {
            **openapi.problem_responses(map(_refusal, _refusals_of(route)), PROBLEM_TYPE),
            **{str(status): _answer(struct) for status, struct in route.answers.items()},
        },
    }
    if route.is_command:
        operation["responses"]["503"] = {
            "description": "The command failed. `code` is the code of the cause, as `cascadia renew` prints it.",
            "content": {PROBLEM_TYPE: {"schema": _PROBLEM, "example": msgspec.to_builtins(_FAILED)}},
        }
    if route.body:
        content = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
        operation["requestBody"] = {
            "required": True,
            "description": route.body,
            "content": {"application/octet-stream": content},
        }
    if route.query:
        operation["parameters"] = [_query_parameter(each) for each in route.query]
    if "{" in route.path:
        schema = {"type": "string", "minLength": 1, "maxLength": ENTITLEMENT_NAME_CHARS_MAX}
        operation["parameters"] = [
            {
                "name": "name",
                "in": "path",
                "required": True,
                "description": "Name of the entitlement, percent-encoded.",
                "schema": schema,
            }
        ]
    return operation


def _query_parameter(parameter: QueryParameter) -> Json:
    schema: Json = {"type": "string"}
    if parameter.seconds_max:
        schema = {"type": "integer", "minimum": 0, "maximum": parameter.seconds_max, "default": 0}
    return {"name": parameter.name, "in": "query", "required": False, "description": parameter.text, "schema": schema}


def _answer(struct: type[msgspec.Struct]) -> Json:
    content = {"schema": openapi.schema_ref(struct), "example": openapi.example(struct, EXAMPLES)}
    return {"description": openapi.texts_of(struct.__doc__)[1], "content": {"application/json": content}}


def _refusals_of(route: Route) -> tuple[Refused, ...]:
    return (*route.refuses, TIMEOUT) if route.is_command else route.refuses


def _refusal(refused: Refused) -> openapi.Refusal:
    body = LocalProblem(title=refused.title, status=refused.status, code=refused.code)
    return openapi.Refusal(refused.code, refused.status, refused.title, body)


def encoded() -> bytes:
    """The document, as JSON."""
    return openapi.encoded(document())
