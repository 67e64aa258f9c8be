"""Values: the keys of a transaction."""

from __future__ import annotations

from typing import NamedTuple


class Locks(NamedTuple):
    """The keys that a transaction holds. Without any it excludes every other transaction.

    `keys` cover data that the transaction writes, `reads` data that it only reads. A key in both counts as `keys`.
    """

    keys: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """True if the transaction excludes every other one."""
        return not self.keys and not self.reads

    def cover(self, other: Locks) -> bool:
        """Whether a transaction with these locks may do the work of one with the locks `other`."""
        if self.is_whole:
            return True
        mine = set(self.keys)
        return not other.is_whole and mine >= set(other.keys) and mine | set(self.reads) >= set(other.reads)

    def __str__(self) -> str:
        """Return the keys for a message."""
        shared = [f"{key} (shared)" for key in self.reads]
        return ", ".join((*self.keys, *shared)) or "all data"


WHOLE = Locks()
"""The locks of a transaction that excludes every other one."""
