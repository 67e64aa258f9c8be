"""Pure functions: cursors of operators' lists, which only the list that made them accepts.

A list makes a cursor of its own, the place after the last item. The route signs it with a key of the installation, for
the service, the operator's token, the path and the filters. So a cursor of another list, another service, another
operator or other filters is refused, and a caller cannot make one. The number of items may change from page to page.
Rule: a list that operators read uses `own_cursor` and `signed_page` in its route; a walk over the API document checks it.
"""

import hashlib
import hmac
from typing import Any, Protocol, TypeVar

import msgspec
from litestar import Request

from cloud.http.guard import current_operator
from cloud.http.problems import Refusal
from protocol.encoding import b64url_encode

TAG_BYTES = 16
"""Bytes of the signature in a cursor. A forged one is refused at every try, and shows nothing that a list does not."""
SIGNED_CURSOR_CHARS_MAX = 192
CURSOR = "cursor"
LIMIT = "limit"
LIST_CURSORS = "list_cursors"
"""Key of the application's `ListCursors` in a request's state. A second part of a handler would cost 0.1 ms a request."""


class Page(Protocol):
    """A page of a list."""

    @property
    def next_cursor(self) -> str:
        """The cursor of the next page, or an empty text."""


P = TypeVar("P", bound=Page)


class ListCursors:
    """Signs and reads the cursors of one service's lists."""

    def __init__(self, service: str, key: bytes) -> None:
        self._service = service
        self._key = key

    def sign(self, request: Request[Any, Any, Any], page: P) -> P:
        """Return the page with a cursor that is good for this list, these filters and this operator only."""
        inner = page.next_cursor
        if not inner:
            return page
        return msgspec.structs.replace(page, next_cursor=f"{inner}.{self._tag(request, inner)}")  # type: ignore[type-var]  # every page is a struct

    def read(self, request: Request[Any, Any, Any], cursor: str) -> str:
        """Return the list's own cursor. It is empty for an empty one. Raises Refusal (`cursor_foreign`)."""
        if not cursor:
            return ""
        inner, _, tag = cursor.rpartition(".")
        if not hmac.compare_digest(tag.encode(), self._tag(request, inner).encode()):
            raise Refusal("cursor_foreign", "the cursor is not of this list with these filters and this operator")
        return inner

    def _tag(self, request: Request[Any, Any, Any], inner: str) -> str:
        filters = sorted((name, value) for name, value in request.query_params.multi_items() if name not in _FREE)
        bound = [self._service, current_operator(request).id, request.scope["path"], filters, inner]
        return b64url_encode(hmac.digest(self._key, msgspec.json.encode(bound), hashlib.sha256)[:TAG_BYTES])


def signed_page(request: Request[Any, Any, Any], page: P) -> P:
    """Return a list's page with the signed cursor."""
    return _cursors_of(request).sign(request, page)


def own_cursor(request: Request[Any, Any, Any], cursor: str) -> str:
    """Return the cursor that the list itself has made. Raises Refusal (`cursor_foreign`)."""
    return _cursors_of(request).read(request, cursor)


def _cursors_of(request: Request[Any, Any, Any]) -> ListCursors:
    cursors: ListCursors = request.scope["state"][LIST_CURSORS]
    return cursors


_FREE = frozenset({CURSOR, LIMIT})
"""Parameters of a query that are no filters."""
