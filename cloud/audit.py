"""Values: audit entries, which record each decision and refusal of a service, and the maker of the entries.

`AuditEntry` has the columns of every audit. A service declares a subclass with its further columns. `AuditEntries`
gives an entry its id and its time. The service's store writes the entry in the transaction of the decision.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from cloud.tasks.current_request import current_request_id
from protocol.ids import make_id

SYSTEM = "system"
"""Actor of actions that a service takes without a request."""
ID_ENTROPY_BYTES = 10

Outcome = Literal["done", "refused"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One audit entry. `actor` is the caller. `object` is the node, serial, authority or path of the decision."""

    id: str
    at: datetime
    actor: str
    action: str
    object: str = ""
    tenant: str = ""
    outcome: Outcome = "done"
    request: str = ""
    """Id of the request that made the entry. Empty for an action of the service itself."""


Entry = TypeVar("Entry", bound=AuditEntry)


class AuditEntries(Generic[Entry]):
    """Makes the audit entries of one process of a service. `kind` is the service's subclass of `AuditEntry`.

    Pages of the audit are ordered by id. So ids rise within the process, also within one millisecond and when the clock
    is set back.
    """

    def __init__(self, kind: type[Entry], now: Callable[[], datetime], entropy: Callable[[int], bytes]) -> None:
        self._kind = kind
        self._now = now
        self._entropy = entropy
        self._last_ms = 0
        self._last_bits = 0

    def make(self, actor: str, action: str, object: str = "", **columns: Any) -> Entry:  # noqa: A002  (the audit's word)
        """Return an entry with the current time and the current request. `columns` are further fields of `kind`.

        Raises TypeError for a field that `kind` does not have.
        """
        now = self._now()
        columns.setdefault("request", current_request_id())
        return self._kind(id=self._id(now), at=now, actor=actor, action=action, object=object, **columns)

    def _id(self, now: datetime) -> str:
        unix_ms = int(now.timestamp() * 1000)
        # `make_id` uses the last 62 bits. Their top bit is cleared, so that counting up never overflows.
        bits = int.from_bytes(self._entropy(ID_ENTROPY_BYTES), "big") & ~(0x3FFFF << 61)
        if unix_ms <= self._last_ms:
            unix_ms, bits = self._last_ms, self._last_bits + 1
        self._last_ms, self._last_bits = unix_ms, bits
        return make_id("aud", unix_ms, bits.to_bytes(ID_ENTROPY_BYTES, "big"))
