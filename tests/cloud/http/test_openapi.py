"""The document of an application: what is read from handlers, what is said beside them, what follows from the peers."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import msgspec
import pytest
from litestar import Request, Response, Router, get, post, route
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.types import ControllerRouterHandler

from cloud.http.admission import PROBES
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS, ENROLLING, NODE, OPERATOR, service
from cloud.http.openapi import Api, ApiDocument, Binary, Header, Tag, api_document, operation_options, show_schema


class Lost(Exception):
    """An error of the service."""


class Thing(msgspec.Struct, frozen=True):
    """A thing."""

    name: str
    """Its name."""


class Things:
    """A part that handlers take."""


OfThing = Annotated[str, PathParameter(description="Name of the thing.")]
Count = Annotated[int, QueryParameter(ge=1, le=9, description="How many.")]


@post(
    "/v1/things/{thing:str}",
    status_code=201,
    opt=operation_options(OPERATOR, bucket=PROBES, refuses=(Lost, "conflict")),
)
async def make_thing(
    thing: OfThing, data: JSONBody[Thing], request: Request[Any, Any, Any], things: Wired[Things], count: Count = 1
) -> Thing:
    """Make a thing.

    More of it.
    """
    return data


@get("/v1/nodes", opt=operation_options(NODE, service("fabric"), bucket=PROBES))
async def list_nodes(things: Wired[Things]) -> Thing:
    """List nodes."""
    return Thing("")


@post(
    "/v1/enrol",
    status_code=200,
    opt=operation_options(
        ENROLLING,
        bucket=PROBES,
        sends=Binary("application/pkcs10", "A request.", 64),
        headers=(Header("Idempotency-Key", "A name.", "^a$"),),
        answers=Binary("application/pkcs7-mime", "A certificate."),
    ),
)
async def enrol() -> Response[bytes]:
    """Enrol."""
    return Response(b"")


@route(
    "/v1/file",
    http_method=["GET", "HEAD"],
    responses={304: ResponseSpec(None, description="Not changed.")},
    opt=operation_options(ANONYMOUS, bucket=PROBES, answers=Binary("text/plain", "A file.")),
)
async def fetch_file() -> Response[bytes]:
    """Fetch a file."""
    return Response(b"")


HANDLERS: Sequence[ControllerRouterHandler] = [
    Router(path="/", route_handlers=[make_thing, list_nodes, enrol, fetch_file]),
    show_schema,
]
API = Api(
    name="things",
    title="Things",
    text="About things.",
    tags=(Tag("things", "All.", ("/v1/", "/schema")),),
    codes={Lost: "not_found"},
    examples={"name": "one"},
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return api_document(HANDLERS, API)


def codes(operation: dict[str, Any]) -> dict[str, set[str]]:
    """Status -> codes of the refusals."""
    found: dict[str, set[str]] = {}
    for status, response in operation["responses"].items():
        if "$ref" in response:
            found[status] = {response["$ref"].rpartition("/")[2]}
        elif int(status) >= 400:
            (content,) = response["content"].values()
            found[status] = set(content["schema"]["properties"]["code"]["enum"])
    return found


def test_an_operation_of_operators(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/things/{thing}"]["post"]
    assert operation["operationId"] == "make_thing"
    assert operation["summary"] == "Make a thing"
    assert operation["description"] == "Make a thing.\n\nMore of it."
    assert operation["security"] == [{"operator": []}]
    assert codes(operation) == {
        "400": {"malformed"},
        "401": {"operator_required"},
        "404": {"not_found"},
        "409": {"conflict"},
        "413": {"too_large"},
        "415": {"unsupported_media_type"},
        "422": {"invalid"},
        "429": {"rate_limited"},
        "500": {"internal"},
        "503": {"unavailable"},
    }
    thing, count = sorted(operation["parameters"], key=lambda each: str(each["in"]))
    assert (thing["name"], thing["description"], thing["required"]) == ("thing", "Name of the thing.", True)
    assert count["schema"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 1}
    body = operation["requestBody"]["content"]["application/json"]
    assert body == {"schema": {"$ref": "#/components/schemas/Thing"}, "example": {"name": "one"}}
    assert operation["responses"]["201"]["content"]["application/json"] == body


def test_peers_become_security_and_refusals(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/nodes"]["get"]
    assert operation["security"] == [{"node": []}, {"service": ["fabric"]}]
    assert codes(operation)["401"] == {"peer_required"}
    assert codes(operation)["403"] == {"generation_closed", "peer_refused"}
    assert set(document["components"]["securitySchemes"]) == {"operator", "node", "service", "enrolment"}


def test_bodies_that_are_not_json(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/enrol"]["post"]
    assert operation["security"] == [{"enrolment": []}]
    (schema,) = [each["schema"] for each in operation["requestBody"]["content"].values()]
    assert schema == {"type": "string", "contentMediaType": "application/pkcs10", "maxLength": 64}
    assert operation["parameters"] == [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "A name.",
            "schema": {"type": "string", "pattern": "^a$"},
        }
    ]
    assert set(operation["responses"]["200"]["content"]) == {"application/pkcs7-mime"}
    assert set(codes(operation)) == {"401", "403", "413", "415", "422", "429", "500"}


def test_an_operation_with_two_methods(document: dict[str, Any]) -> None:
    item = document["paths"]["/v1/file"]
    assert {method: operation["operationId"] for method, operation in item.items()} == {
        "get": "fetch_file",
        "head": "fetch_file_head",
    }
    assert item["get"]["security"] == [{}]
    assert item["get"]["responses"]["304"]["description"] == "Not changed."


def test_a_document_names_every_route_and_is_made_once(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {"/v1/things/{thing}", "/v1/nodes", "/v1/enrol", "/v1/file", "/schema"}
    made = ApiDocument(HANDLERS, API)
    assert json.loads(made.encoded) == document
    assert made.encoded is made.encoded


def test_readers_at_one_time_share_one_making() -> None:
    readings: set[int] = set()

    class Handlers(list[ControllerRouterHandler]):
        def __iter__(self) -> Iterator[ControllerRouterHandler]:
            readings.add(threading.get_ident())
            return super().__iter__()

    made = ApiDocument(Handlers(HANDLERS), API)
    with ThreadPoolExecutor(4) as readers:
        documents = list(readers.map(lambda _: made.encoded, range(4)))
    assert (len(readings), len({id(each) for each in documents})) == (1, 1)


def test_a_path_without_a_tag_is_a_mistake() -> None:
    bare = msgspec.structs.replace(API, tags=())
    with pytest.raises(LookupError, match="no tag fits the path /v1/"):
        api_document(HANDLERS, bare)
