"""Use case: record refused operator tokens in the audit, a limited number in an hour.

A revoked or expired token that is still used is a sign of a leak or of a forgotten job. A token that never existed is a
guess. Each replica counts for itself.
"""

from datetime import timedelta

from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.keys import refusal_key
from cloud.tasks.tally import Tally

REFUSALS_AUDITED_MAX = 20
REFUSALS_PERIOD = timedelta(hours=1)
"""Most audit entries for one known token, and for all unknown tokens together, in REFUSALS_PERIOD."""
TOKENS_MAX = 1000
"""Most tokens that are counted at a time. Refusals of further tokens are not recorded."""
UNKNOWN = "unknown"
"""The object of the entry for a token that is not in the database, or is no token."""


class TokenRefusals:
    """Counts refused tokens, and records the first REFUSALS_AUDITED_MAX of each token and hour."""

    def __init__(self, *, now: Now, transaction: Transaction, audit: AuditLog) -> None:
        self._now = now
        self._transaction = transaction
        self._audit = audit
        self._tally: Tally[str] = Tally(REFUSALS_PERIOD, TOKENS_MAX)

    async def note(self, token: str, reason: str) -> None:
        """Count a refused token, and record it within the limits. `token` is its id, or UNKNOWN."""
        now = self._now()
        self._tally.end_all(now)
        if not self._tally.has_room(token) or self._tally.add(token, now) > REFUSALS_AUDITED_MAX:
            return
        async with self._transaction(refusal_key(token)):
            await self._audit.write(ANONYMOUS, "token.refused", token, "", "refused", reason=reason)
