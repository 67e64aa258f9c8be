"""`cloud.http.cursors`: a cursor is good for the list, the filters and the operator that it was made for."""

from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from litestar import Request

from cloud.http.cursors import SIGNED_CURSOR_CHARS_MAX, ListCursors
from cloud.http.guard import Operator
from cloud.http.problems import Refusal

KEY = b"k" * 32
LIST = ListCursors("fabric", KEY)


class Page(msgspec.Struct, frozen=True):
    items: tuple[int, ...]
    next_cursor: str


def asked(path: str = "/v1/nodes", query: str = "", operator: str = "tok_1") -> Request[Any, Any, Any]:
    scope: Any = {
        "type": "http",
        "path": path,
        "query_string": query.encode(),
        "headers": [],
        "state": {"operator": Operator(operator, "alice")},
    }
    return Request(scope)


def signed(request: Request[Any, Any, Any], inner: str = "bm9kZV8x") -> str:
    page = LIST.sign(request, Page((1,), inner))
    assert page.items == (1,)
    return page.next_cursor


def test_a_cursor_is_read_by_the_list_that_made_it() -> None:
    cursor = signed(asked(query="tenant=ten_1&standing=active&limit=2"))
    for query in ("standing=active&tenant=ten_1", f"tenant=ten_1&limit=50&cursor={cursor}&standing=active"):
        assert LIST.read(asked(query=query), cursor) == "bm9kZV8x"
    assert cursor.startswith("bm9kZV8x.")
    assert len(signed(asked(), "x" * 128)) <= SIGNED_CURSOR_CHARS_MAX
    assert quote(cursor, safe="") == cursor


def test_the_first_and_the_last_page_have_no_cursor() -> None:
    assert LIST.read(asked(), "") == ""
    assert signed(asked(), "") == ""


CURSOR = signed(asked(query="tenant=ten_1"))
SAME = asked(query="tenant=ten_1")


@pytest.mark.parametrize(
    "request_",
    [
        asked(),
        asked(query="tenant=ten_2"),
        asked(query="tenant="),
        asked(query="tenant=ten_1&standing=active"),
        asked("/v1/clones", "tenant=ten_1"),
        asked("/v1/nodes/", "tenant=ten_1"),
        asked(query="tenant=ten_1", operator="tok_2"),
    ],
)
def test_another_list_filter_or_operator_is_refused(request_: Request[Any, Any, Any]) -> None:
    assert LIST.read(SAME, CURSOR) == "bm9kZV8x"
    with pytest.raises(Refusal) as caught:
        LIST.read(request_, CURSOR)
    assert caught.value.code == "cursor_foreign"


@pytest.mark.parametrize(
    "cursor",
    [
        "bm9kZV8x",
        "bm9kZV8x.",
        ".",
        f"bm9kZV8y.{CURSOR.partition('.')[2]}",
        CURSOR[:-1] + ("A" if CURSOR[-1] != "A" else "B"),
        f"{CURSOR}A",
        f"{CURSOR} ",
        f"{CURSOR}.{CURSOR}",
        "bm9kZV8x.é",
    ],
)
def test_a_cursor_that_no_list_made_is_refused(cursor: str) -> None:
    with pytest.raises(Refusal) as caught:
        LIST.read(SAME, cursor)
    assert caught.value.code == "cursor_foreign"


def test_another_service_or_key_refuses_it() -> None:
    for other in (ListCursors("breakwater", KEY), ListCursors("fabric", b"l" * 32)):
        with pytest.raises(Refusal):
            other.read(SAME, CURSOR)
