"""Printable text: round trips, and every single wrong letter, swap, missing, repeated and moved line is located."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.airgap.errors import DocumentDamaged, DocumentTooLarge, WrongDocument
from protocol.airgap.text import (
    LINES_MAX,
    QR_CHARS_MAX,
    from_text,
    qr_bytes_max,
    text_bytes_max,
    to_qr_text,
    to_text,
)

DATA = random.Random(12).randbytes(100)
TEXT = to_text("REQUEST", DATA)
ROWS = TEXT.splitlines()
LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZU*"

VECTOR = """\
CASCADE-REQUEST 0001 1BFE
0001 CDGQ6 RV1CH JG 0CB5
END-REQUEST ZNW2NNN7 1ARY
"""


def located(rows: list[str]) -> tuple[int, ...]:
    with pytest.raises(DocumentDamaged) as caught:
        from_text("REQUEST", "\n".join(rows))
    return caught.value.lines


def changed(at: int, row: str) -> list[str]:
    return [row if number == at else each for number, each in enumerate(ROWS)]


def test_the_literal_example_is_read_and_written() -> None:
    assert from_text("REQUEST", VECTOR) == b"cascade"
    assert to_text("REQUEST", b"cascade") == VECTOR


@given(st.binary(min_size=1, max_size=400))
def test_text_and_qr_text_survive_a_round_trip(data: bytes) -> None:
    text = to_text("ANSWER", data)
    assert from_text("ANSWER", text) == data
    retyped = text.lower().replace("0", "o").replace("1", "l").replace(" ", "  ")
    assert from_text("ANSWER", f"Dear operator,\n\n{retyped}\nKind regards") == data
    assert from_text("ANSWER", to_qr_text("ANSWER", data).lower()) == data


@pytest.mark.parametrize("at", range(len(ROWS)))
def test_each_wrong_letter_is_located_by_its_line(at: int) -> None:
    row = ROWS[at]
    for place, right in enumerate(row):
        for wrong in LETTERS:
            if right not in " -" and wrong not in (right, "0" if right == "O" else right):
                assert located(changed(at, row[:place] + wrong + row[place + 1 :])) == (at,)


@pytest.mark.parametrize("at", range(len(ROWS)))
def test_each_swap_of_neighbours_is_located_by_its_line(at: int) -> None:
    row = ROWS[at]
    for place in range(len(row) - 1):
        first, second = row[place], row[place + 1]
        if first != second and not {first, second} & {" ", "-"}:
            assert located(changed(at, row[:place] + second + first + row[place + 2 :])) == (at,)


@pytest.mark.parametrize("at", range(len(ROWS)))
def test_each_missing_line_is_named(at: int) -> None:
    assert located([row for number, row in enumerate(ROWS) if number != at]) == (at,)


@pytest.mark.parametrize("at", range(1, len(ROWS) - 1))
def test_each_letter_left_out_is_located(at: int) -> None:
    row = ROWS[at].replace(" ", "")
    for place in range(len(row)):
        assert located(changed(at, row[:place] + row[place + 1 :])) == (at,)


def test_repeated_moved_and_foreign_lines_are_named() -> None:
    with pytest.raises(DocumentDamaged, match="line 3 is there twice"):
        from_text("REQUEST", "\n".join([*ROWS[:4], ROWS[3], *ROWS[4:]]))
    with pytest.raises(DocumentDamaged, match="line 2 is in the wrong place"):
        from_text("REQUEST", "\n".join([*ROWS[:2], ROWS[3], ROWS[2], *ROWS[4:]]))
    other = to_text("REQUEST", DATA[::-1]).splitlines()
    with pytest.raises(DocumentDamaged, match="lines of two texts are mixed"):
        from_text("REQUEST", "\n".join(changed(2, other[2])))
    longer = to_text("REQUEST", DATA * 2).splitlines()
    with pytest.raises(DocumentDamaged, match="line 5 does not belong here: the text has 4 lines"):
        from_text("REQUEST", "\n".join([*ROWS[:-1], longer[5], ROWS[-1]]))
    with pytest.raises(DocumentDamaged, match="line 2 is too short or too long"):
        short = to_text("REQUEST", bytes(40)).splitlines()[2]
        from_text("REQUEST", "\n".join(changed(2, short)))


def test_several_damaged_lines_are_named_together() -> None:
    rows = [row[:-1] + ("0" if row[-1] != "0" else "1") for row in ROWS[1:4]]
    assert located([ROWS[0], *rows, *ROWS[4:]]) == (1, 2, 3)
    longer = to_text("REQUEST", DATA * 4).splitlines()
    with pytest.raises(DocumentDamaged, match=r"line 1 is missing.*and 5 more"):
        from_text("REQUEST", "\n".join([longer[0], longer[-1]]))


def test_another_title_and_no_title_are_named() -> None:
    with pytest.raises(WrongDocument, match="CASCADE-REQUEST, and CASCADE-ANSWER"):
        from_text("ANSWER", TEXT)
    with pytest.raises(WrongDocument):
        from_text("ANSWER", to_qr_text("REQUEST", DATA))
    with pytest.raises(DocumentDamaged, match="begins with CASCADE-REQUEST"):
        from_text("REQUEST", "hello")


def test_a_qr_text_is_damaged_or_cut_short() -> None:
    text = to_qr_text("REQUEST", DATA)
    wrong = "0" if text[-10] != "0" else "1"
    for damaged in (text[:-1], text[:-10] + wrong + text[-9:], text[:18], text[:30] + "U" + text[31:]):
        with pytest.raises(DocumentDamaged):
            from_text("REQUEST", damaged)


def test_the_limits_are_those_of_the_forms() -> None:
    most = qr_bytes_max("REQUEST")
    assert len(to_qr_text("REQUEST", bytes(most))) <= QR_CHARS_MAX
    with pytest.raises(DocumentTooLarge, match=str(most)):
        to_qr_text("REQUEST", bytes(most + 1))
    full = bytes(text_bytes_max())
    assert len(to_text("ANSWER", full).splitlines()) == LINES_MAX + 2
    with pytest.raises(DocumentTooLarge, match=str(text_bytes_max())):
        to_text("ANSWER", full + bytes(32))


@given(st.text(max_size=300))
def test_any_text_is_refused_by_name(text: str) -> None:
    for prefix in ("", "CASCADE-REQUEST 0001 1BFE\n", "CASCADE:REQUEST:"):
        with pytest.raises((DocumentDamaged, WrongDocument)):
            from_text("REQUEST", prefix + text)
