"""Pure functions: entity tags, and the condition under which a change of an object is carried out (RFC 9110 13.1.1).

An answer with an object has the tag of the object in `ETag`. A PUT, PATCH or DELETE must send that tag in `If-Match`.
The use case compares it with the object as it is inside the transaction of the change, so no change is lost to another
one between the reading and the writing. A tag is a hash of the object's representation. So it depends on nothing but
the object, and changes with every field that a reader sees.
"""

import hashlib
import re
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection

from cloud.http.problems import Refusal
from protocol.encoding import b64url_encode

IfMatch = frozenset[str] | None
"""The tags of which one must be that of the object. None: the change has no condition, as it comes from this process."""
IF_MATCH = "if_match"
"""Key of the tags in a request's state."""
CHANGING = frozenset({"PUT", "PATCH", "DELETE"})
"""Methods that must send `If-Match`. A POST is an action, and its repeat is harmless by itself."""
TAG_BYTES = 16
"""Bytes of the hash in a tag. A chance collision of two states of one object needs 2^64 states."""
IF_MATCH_CHARS_MAX = 1024
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"{_TAG}(?:[ \t]*,[ \t]*{_TAG})*")


def etag_of(document: Any) -> str:
    """Return the strong entity tag of an object, as it is in the header. `document` is the body of the answer."""
    digest = hashlib.sha256(msgspec.json.encode(document, order="sorted")).digest()
    return f'"{b64url_encode(digest[:TAG_BYTES])}"'


async def tagged(response: Response[Any]) -> Response[Any]:
    """Add the object's tag to an answer. A handler names this function as its `after_request`."""
    response.headers["ETag"] = etag_of(response.content)
    return response


def require_if_match(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Store the tags of a request that must send `If-Match`.

    Raises:
        Refusal: `if_match_required` if there is no tag, `malformed` if the value is not a list of tags.
    """
    if connection.scope.get("method") not in CHANGING:
        return
    value = ", ".join(connection.headers.getall("if-match", [])).strip()
    if not value:
        raise Refusal("if_match_required", "the request has no If-Match")
    if value == "*":
        raise Refusal("if_match_required", "`If-Match: *` would overwrite a change that the caller has not seen")
    if len(value) > IF_MATCH_CHARS_MAX or not _TAGS.fullmatch(value):
        raise Refusal("malformed", "If-Match: not a list of entity tags")
    # A weak tag never matches (RFC 9110 section 13.1.1), so it is left out.
    strong = frozenset(tag for tag in re.findall(_TAG, value) if not tag.startswith("W/"))
    connection.scope["state"][IF_MATCH] = strong


def if_match_of(request: Request[Any, Any, Any]) -> IfMatch:
    """Return the tags of a request. The application has refused a changing request without them."""
    tags: IfMatch = request.scope["state"].get(IF_MATCH)
    return tags


def matches(if_match: IfMatch, document: Any) -> bool:
    """Whether a change with this condition may be carried out on the object, as it is now."""
    return if_match is None or etag_of(document) in if_match
