"""In-memory state: the published trust that the agent works with. `CurrentTrust` is its only owner.

Every part of the agent holds the same object and reads `value` when it needs it; a refresh replaces the value for all.
"""

from pathlib import Path
from typing import Self

import trio

from node.trust import published
from node.trust.published import TrustSet


class CurrentTrust:
    """The trust in use. Starts as what was published last on this machine."""

    def __init__(self, state_dir: Path, value: TrustSet) -> None:
        self._state_dir = state_dir
        self._value = value
        self._refreshing = trio.Lock()

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        """Raises as `published.load`."""
        return cls(state_dir, published.load(state_dir))

    @property
    def value(self) -> TrustSet:
        return self._value

    async def refresh(self) -> None:
        """Bring it up to date from the repository. Raises as `published.refresh`."""
        # One at a time: of two refreshes, the one that started first could be published last, and be the older.
        async with self._refreshing:
            self._value = await published.refresh(self._state_dir)
