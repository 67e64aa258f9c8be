"""Pure function: the bounds of a field of a message, as its type states them.

The module is apart from `protocol.openapi`, because every start of an agent imports the messages, and none makes an API
document.
"""

import msgspec


def limits(**keywords: int | bool | str) -> msgspec.Meta:
    """Keywords of JSON Schema for a field. The cloud checks them at its edge, after the decoder (`cloud.http.bounds`)."""
    return msgspec.Meta(extra_json_schema=dict(keywords))
