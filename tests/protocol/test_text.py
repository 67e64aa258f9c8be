"""A terminal acts on no character of an escaped text."""

import pytest
from hypothesis import given, strategies

from protocol.text import escaped, escaped_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Müller's CA", "Müller's CA"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("nul\x00 delete\x7f csi\x9b", "nul\\x00 delete\\x7f csi\\x9b"),
        ("right\u202eto left", "right\\u202eto left"),
        ("\ud800 \U000e0001", "\\ud800 \\U000e0001"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
    ],
)
def test_what_a_terminal_acts_on_is_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


@given(strategies.text(strategies.characters(), max_size=60))
def test_every_line_is_printable(text: str) -> None:
    assert escaped(text).isprintable()
    assert all(line.isprintable() for line in escaped_lines(text).split("\n"))
    assert escaped_lines(text).count("\n") == text.count("\n")
