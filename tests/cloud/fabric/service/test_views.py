"""`cloud.fabric.service.views`: pages, cursors, and the state of a code."""

from datetime import timedelta

import pytest

from cloud.fabric.errors import Invalid
from cloud.fabric.service import views
from tests.cloud.fabric.store.support import HOUR, NOW, code, generation, node


def test_a_page_has_a_cursor_only_if_there_is_more() -> None:
    assert views.page(["a", "b"], ["1", "2"], 2).next_cursor == ""
    first = views.page(["a", "b", "c"], ["1", "2", "3"], 2)
    assert first.items == ("a", "b")
    assert views.read_cursor(first.next_cursor) == "2"


@pytest.mark.parametrize("cursor", ["!", "w6Q", "A" * 200])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(Invalid):
        views.read_cursor(cursor)


@pytest.mark.parametrize("limit", [0, -1, views.PAGE_ITEMS_MAX + 1])
def test_limits_are_bounded(limit: int) -> None:
    with pytest.raises(Invalid):
        views.read_limit(limit)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "open"),
        ({"seats_taken": 2}, "spent"),
        ({"expires_at": NOW, "seats_taken": 2}, "expired"),
        ({"revoked_at": NOW, "expires_at": NOW}, "revoked"),
    ],
)
def test_the_state_of_a_code_is_the_strongest_that_holds(changes: dict[str, object], state: str) -> None:
    assert views.code(code(**changes), NOW).state == state
    assert "5ec" not in str(views.code(code(**changes), NOW))


def test_a_node_is_closing_until_the_issuer_knows() -> None:
    assert views.node(node(closed_up_to=1)).closing
    assert not views.node(node(closed_up_to=1, closed_at_issuer=1)).closing
    assert views.generation(generation(seen_at=NOW + HOUR)).seen_at == NOW + timedelta(hours=1)
