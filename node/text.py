"""Pure functions: text from outside (files, arguments, the network) in a form that logs and terminals can show.

Every text of an error, a log line and a condition passes through `shown`. `duration` writes a length of time.
"""

from datetime import timedelta

from protocol.text import escaped

TEXT_CHARACTERS_MAX = 1000
"""Longest text that is shown. Messages of our own are shorter; a stranger's text can have any length."""


def shown(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """The text on one line, without control characters, and with at most `characters_max` characters.

    Line breaks, ANSI escapes, marks of the writing direction and bytes that are not UTF-8 become `\\xNN`, `\\uNNNN` or
    `\\UNNNNNNNN`. The middle of a longer text is replaced by its length, because the cause is often at the end.
    `shown(shown(x))` is `shown(x)`.
    """
    if len(text) <= characters_max and text.isprintable():
        return text
    if len(text) <= characters_max:
        whole = escaped(text)
        if len(whole) <= characters_max:
            return whole
    note = f" ... ({len(text)} characters) ... "[:characters_max]
    tail = (characters_max - len(note)) // 3
    head = characters_max - len(note) - tail
    return escaped(text[:head])[:head] + note + (escaped(text[-tail:])[-tail:] if tail else "")


def shown_error(error: BaseException, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Type and text of an exception, as `shown`."""
    return shown(f"{type(error).__name__}: {error}", characters_max)


def duration(value: timedelta) -> str:
    """A duration for people, rounded down to its two largest units: `364 d 23 h`, `9 min 59 s`."""
    left = int(value.total_seconds())
    parts: list[str] = []
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(parts)
