"""Background work: store that activation codes have expired, so that each expiry has an event.

No decision depends on it: a code is refused from its `expires_at` on.
"""

from dataclasses import dataclass

from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.keys import code_key
from protocol.faults import fault_point

CODES_MAX = 100
"""Codes of one step."""
CODES_SECONDS = 60.0
"""Interval of the steps."""


@dataclass(frozen=True, kw_only=True)
class ExpiredCodes:
    """Finds codes that have expired."""

    now: Now
    transaction: Transaction
    codes: CodeStore

    async def step(self) -> None:
        """Store the expiry of the next codes. Raises StorageError."""
        now = self.now()
        for code in await self.codes.due(now, CODES_MAX):
            with fault_point("fabric.code.expire"):
                async with self.transaction(code_key(code)):
                    await self.codes.expire(code, now)
