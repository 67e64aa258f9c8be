"""Pure functions: the cursor of a feed, as text. Only its producer reads it.

The text names the service, the epoch and the position. It is not signed, because only services of this installation hold
cursors, and a wrong cursor shows them nothing that they may not read.
"""

import re

import msgspec

from cloud.contracts.events import NUMBER_MAX

CURSOR_CHARS_MAX = 64
_CURSOR = re.compile(r"([a-z]{1,16})\.(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})")


class CursorError(ValueError):
    """The text is not a cursor of this service."""


class Cursor(msgspec.Struct, frozen=True):
    """A place in the feed of a service: after `position`, in `epoch`."""

    service: str
    epoch: int
    position: int

    def __str__(self) -> str:
        return f"{self.service}.{self.epoch}.{self.position}"


def parse_cursor(text: str, service: str) -> Cursor:
    """Return the cursor. Raises CursorError for another form, and for a cursor of another service."""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise CursorError("this is no cursor of a feed")
    cursor = Cursor(found[1], int(found[2]), int(found[3]))
    if cursor.service != service:
        raise CursorError(f"this is a cursor of {cursor.service}")
    if cursor.epoch > NUMBER_MAX or cursor.position > NUMBER_MAX:
        raise CursorError("this is no cursor of a feed")
    return cursor
