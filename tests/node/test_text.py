"""Text from outside is shown on one line, without control characters, and bounded."""

from datetime import timedelta

import pytest
from hypothesis import given, strategies

from node.text import TEXT_CHARACTERS_MAX, duration, shown, shown_error

ANY_TEXT = strategies.text(strategies.characters(), max_size=60)
"""Surrogates are included: Python reads bytes that are not UTF-8 as surrogates."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /etc/x: Müller's file", "cannot read /etc/x: Müller's file"),
        ("one\ntwo\r\n", "one\\x0atwo\\x0d\\x0a"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("nul\x00, tab\t, delete\x7f, csi\x9b", "nul\\x00, tab\\x09, delete\\x7f, csi\\x9b"),
        ("right\u202eto left", "right\\u202eto left"),
        ("line\u2028separator", "line\\u2028separator"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_long_text_keeps_its_begin_and_its_end() -> None:
    text = shown("cannot read " + "x" * 90_000 + ": no space")
    assert len(text) == TEXT_CHARACTERS_MAX
    assert text.startswith("cannot read x")
    assert "x ... (90022 characters) ... x" in text
    assert text.endswith("x: no space")
    assert len(shown("\x1b" * TEXT_CHARACTERS_MAX)) == TEXT_CHARACTERS_MAX


@given(ANY_TEXT, strategies.integers(min_value=0, max_value=80))
def test_every_text_is_bounded_printable_and_stable(text: str, limit: int) -> None:
    once = shown(text, limit)
    assert len(once) <= limit
    assert once.isprintable()
    assert shown(once, limit) == once
    once.encode()


def test_an_exception_has_its_type_in_front() -> None:
    assert shown_error(KeyError("a\nb")) == "KeyError: 'a\\nb'"
    assert len(shown_error(ValueError("A" * 100_000), 300)) == 300


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=59.9), "59 s"),
        (timedelta(minutes=15), "15 min 0 s"),
        (timedelta(hours=25, minutes=59), "1 d 1 h"),
        (timedelta(days=364, hours=23), "364 d 23 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(value: timedelta, text: str) -> None:
    assert duration(value) == text
