"""`cloud.events.cursor`: a cursor survives its text, and no other text is a cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.contracts.events import NUMBER_MAX
from cloud.events.cursor import CURSOR_CHARS_MAX, Cursor, CursorError, parse_cursor


@given(st.integers(0, NUMBER_MAX), st.integers(0, NUMBER_MAX))
def test_a_cursor_survives_its_text(epoch: int, position: int) -> None:
    cursor = Cursor("breakwater", epoch, position)
    assert len(str(cursor)) <= CURSOR_CHARS_MAX
    assert parse_cursor(str(cursor), "breakwater") == cursor


@pytest.mark.parametrize(
    "text",
    ["", "fabric", "fabric.1", "fabric.1.-1", "fabric.01.2", "fabric.1.2.3", "fabric.1.9223372036854775808", "9.1.2"],
)
def test_other_texts_are_no_cursors(text: str) -> None:
    with pytest.raises(CursorError, match="no cursor"):
        parse_cursor(text, "fabric")


def test_a_cursor_of_another_service_is_refused() -> None:
    with pytest.raises(CursorError, match="of breakwater"):
        parse_cursor("breakwater.1.2", "fabric")
