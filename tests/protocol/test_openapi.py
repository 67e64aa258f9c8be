"""Parts of API documents: texts, schemas, examples, problems."""

import inspect
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
import pytest

from protocol import openapi
from protocol.bounds import limits
from protocol.ids import NodeId, TenantId, parse_id

T = TypeVar("T")


class Inner(msgspec.Struct, frozen=True):
    """Inside of Sample."""

    at: datetime | None
    """Time of it."""


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sample.

    Its second paragraph.
    """

    tenant: TenantId
    """Id of the tenant,
    over two lines."""
    kind: Literal["one", "two"]
    """Which."""
    inner: Inner
    """The inside."""
    name: Annotated[str, limits(maxLength=3)] = "abc"
    """A name."""
    node: NodeId | None = None
    data: bytes = b""
    times: tuple[datetime, ...] = ()


class Box(msgspec.Struct, Generic[T], frozen=True):
    """A box."""

    items: tuple[T, ...]
    """What is in it."""


@pytest.mark.parametrize(
    ("docstring", "summary", "text"),
    [
        ("Do a thing.", "Do a thing", "Do a thing."),
        ("Do a thing\n    in two lines.\n\n    And more\n    of it.\n    ", "Do a thing in two lines", None),
        (None, "", ""),
    ],
)
def test_texts(docstring: str | None, summary: str, text: str | None) -> None:
    found = openapi.texts_of(docstring)
    assert found == (summary, "Do a thing in two lines.\n\nAnd more of it." if text is None else text)


def test_schemas_have_texts_patterns_and_limits() -> None:
    made = openapi.schemas([Sample, Box[Sample]], inspect.getsource)
    assert set(made) == {"Sample", "Inner", "SampleBox"}
    fields = made["Sample"]["properties"]
    assert made["Sample"]["description"] == "A sample.\n\nIts second paragraph."
    assert made["Sample"]["additionalProperties"] is False
    assert made["Sample"]["required"] == ["tenant", "kind", "inner"]
    assert fields["tenant"] == {
        "type": "string",
        "description": "Id of the tenant, over two lines.",
        "pattern": openapi.id_pattern("ten"),
    }
    assert fields["name"] == {"type": "string", "maxLength": 3, "default": "abc", "description": "A name."}
    assert "description" not in fields["node"]
    assert fields["node"]["anyOf"][0]["pattern"] == openapi.id_pattern("node")
    assert fields["data"]["contentEncoding"] == "base64"
    assert fields["times"]["items"]["format"] == "date-time"
    assert made["Inner"]["properties"]["at"]["anyOf"][0]["format"] == "date-time"
    assert fields["inner"]["$ref"] == "#/components/schemas/Inner"
    assert made["SampleBox"]["properties"]["items"]["items"] == openapi.schema_ref(Sample)
    assert openapi.schema_ref(Box[Sample]) == {"$ref": "#/components/schemas/SampleBox"}


def test_examples_are_of_their_type() -> None:
    values = {"name": "xyz", "kind": "two"}
    made = openapi.example(Box[Sample], values)
    (item,) = msgspec.convert(made, Box[Sample]).items
    assert (item.name, item.kind, item.inner.at, item.node) == ("xyz", "two", None, None)
    assert parse_id("ten", item.tenant) == item.tenant
    with pytest.raises(msgspec.ValidationError, match="name"):
        openapi.example(Sample, {"name": 3})


def test_problems_are_grouped_by_status() -> None:
    body = Inner(None)
    refusals = [
        openapi.Refusal("late", 403, "Too late", body),
        openapi.Refusal("gone", 404, "Gone", body),
        openapi.Refusal("early", 403, "Too early", body),
    ]
    responses = openapi.problem_responses(refusals, "application/problem+json")
    assert responses["404"] == {"$ref": "#/components/responses/gone"}
    (content,) = responses["403"]["content"].values()
    assert content["schema"]["properties"]["code"]["enum"] == ["early", "late"]
    assert set(content["examples"]) == {"early", "late"}
    components = openapi.problem_components(refusals, "application/problem+json")
    assert set(components["examples"]) == set(components["responses"]) == {"early", "gone", "late"}
    assert components["examples"]["gone"] == {"summary": "Gone", "value": {"at": None}}


def test_a_document_is_written_in_one_way() -> None:
    assert openapi.encoded({"b": "ä", "a": [1]}) == '{\n  "a": [\n    1\n  ],\n  "b": "ä"\n}\n'.encode()


def test_responses_that_nothing_refers_to_are_left_out() -> None:
    document = {
        "paths": {"/": {"get": {"responses": {"404": {"$ref": "#/components/responses/gone"}}}}},
        "components": {"schemas": {}, "responses": {"gone": {}, "late": {}}},
    }
    assert openapi.without_unused(document)["components"] == {"schemas": {}, "responses": {"gone": {}}}
