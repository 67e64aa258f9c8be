"""`protocol.bounds`: the bounds of a field stand in the schema of its message."""

from typing import Annotated, Any

import msgspec

from protocol.bounds import limits


class _Message(msgspec.Struct):
    name: Annotated[str, limits(maxLength=3, pattern="^a")]


def test_a_schema_has_the_bounds_of_a_field() -> None:
    schema: dict[str, Any] = msgspec.json.schema(_Message)
    assert schema["$defs"]["_Message"]["properties"]["name"] == {"type": "string", "maxLength": 3, "pattern": "^a"}
