"""Values: what is wrong now and does not stop the agent. `cascadia status` shows every condition.

A condition has a stable code, which is the name of its cause. The code that finds a fault reports it under this code,
and clears it when the cause is gone. Conditions are in memory only: a restart finds what is still wrong.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from node.errors import NodeError
from node.text import shown

CONDITIONS_MAX = 64
"""More codes than the agent has. The bound keeps a code that varies with input from filling the memory."""
TEXT_CHARACTERS_MAX = 1000
"""A text can quote a name or an answer from outside. It is escaped, and the rest of a longer text is dropped."""


class Condition(msgspec.Struct, frozen=True):
    """One fault that lasts. `code` is for programs; `text` and `next` are for people."""

    code: str
    """Name of the cause. Codes are never renamed."""
    text: str
    """Cause."""
    next: str
    """Next step. Empty if the agent ends the condition by itself."""
    since: datetime
    """Time of the first report, by the wall clock."""


class Conditions:
    """The conditions of one agent or one command."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._current: dict[str, Condition] = {}

    def report(self, code: str, text: str, next_step: str = "") -> bool:
        """Set the condition `code`. A repeated report keeps `since`. Returns True if the code was not set before."""
        before = self._current.get(code)
        if before is None and len(self._current) >= CONDITIONS_MAX:
            return False
        since = self._clock() if before is None else before.since
        text, next_step = shown(text, TEXT_CHARACTERS_MAX), shown(next_step, TEXT_CHARACTERS_MAX)
        self._current[code] = Condition(code, text, next_step, since)
        return before is None

    def report_error(self, error: NodeError) -> bool:
        """As `report`, with the code, text and next step of an error."""
        return self.report(error.code, error.text, error.next)

    def clear(self, code: str) -> None:
        """End the condition `code`. A code that is not set is no error."""
        self._current.pop(code, None)

    def now(self) -> datetime:
        """The time now, by the clock of the conditions."""
        return self._clock()

    def current(self) -> tuple[Condition, ...]:
        """The conditions that are set, the oldest first."""
        return tuple(self._current.values())
