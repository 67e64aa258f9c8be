"""In-memory state: the published trust that the agent uses. `CurrentTrust` is its only owner.

Every part of the agent has the same object, and reads `value` whenever it needs it. A refresh replaces the value for
all of them.
"""

from pathlib import Path
from typing import Self

import trio

from node.clock import Clock
from node.trust import published
from node.trust.published import TrustSet


class CurrentTrust:
    """The trust in use."""

    def __init__(self, state_dir: Path, value: TrustSet, clock: Clock) -> None:
        """`clock` returns the time at which expiry dates are judged."""
        self._clock = clock
        self._state_dir = state_dir
        self._value = value
        self._refreshing = trio.Lock()

    @classmethod
    def load(cls, state_dir: Path, clock: Clock) -> Self:
        """The trust that is stored on this machine. Raises as `published.load`."""
        return cls(state_dir, published.load(state_dir), clock)

    @property
    def value(self) -> TrustSet:
        """The trust now."""
        return self._value

    async def refresh(self) -> None:
        """Update the trust from the repository. Raises as `published.refresh`.

        A verified trust that the disk refuses is used from memory: the services may already use its certificates. A
        refresh that starts from an older trust on the disk does not replace a newer one in memory.
        """
        # One refresh at a time: of two parallel ones, the older result could be stored last.
        async with self._refreshing:
            try:
                self._use(await published.refresh(self._state_dir, held=self._value, clock=self._clock))
            except published.TrustNotStored as error:
                self._use(error.value)
                raise

    async def adopt(self, staged: published.Staged) -> None:
        """Store and use a verified trust that was carried to this machine. Raises StateError."""
        async with self._refreshing:
            self._use(await staged.keep())

    def _use(self, value: TrustSet) -> None:
        if value.version >= self._value.version:
            self._value = value
