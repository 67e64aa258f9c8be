"""Audit entries: what a service writes down of each decision and refusal, and the maker of them.

`AuditEntry` has what every audit has. A service declares a subclass with the columns that only its own audit has. The
maker gives an entry its id and its time; the service's store writes it, in the transaction of the decision.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from protocol.ids import make_id

SYSTEM = "system"
"""The actor of what a service does by itself."""
ID_ENTROPY_BYTES = 10

Outcome = Literal["done", "refused"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `actor` is who acted, `object` what was decided on: a node, a serial, an authority, a path."""

    id: str
    at: datetime
    actor: str
    action: str
    object: str = ""
    tenant: str = ""
    outcome: Outcome = "done"


Entry = TypeVar("Entry", bound=AuditEntry)


class AuditEntries(Generic[Entry]):
    """Makes the audit entries of one process of a service; `kind` is the service's own entry.

    The ids rise within this process, also within a millisecond and when the clock falls back: pages of the audit are
    ordered by them.
    """

    def __init__(self, kind: type[Entry], now: Callable[[], datetime], entropy: Callable[[int], bytes]) -> None:
        self._kind = kind
        self._now = now
        self._entropy = entropy
        self._last_ms = 0
        self._last_bits = 0

    def make(self, actor: str, action: str, object: str = "", **columns: Any) -> Entry:  # noqa: A002  (the audit's word)
        """An entry of now. `columns` are further fields of `kind`; the kind refuses names that it does not have."""
        now = self._now()
        return self._kind(id=self._id(now), at=now, actor=actor, action=action, object=object, **columns)

    def _id(self, now: datetime) -> str:
        unix_ms = int(now.timestamp() * 1000)
        # The top bit of the 62 that make_id puts last stays free, so that counting up never wraps.
        bits = int.from_bytes(self._entropy(ID_ENTROPY_BYTES), "big") & ~(0x3FFFF << 61)
        if unix_ms <= self._last_ms:
            unix_ms, bits = self._last_ms, self._last_bits + 1
        self._last_ms, self._last_bits = unix_ms, bits
        return make_id("aud", unix_ms, bits.to_bytes(ID_ENTROPY_BYTES, "big"))
