"""Use case: record refused recoveries in the audit, one entry for each activation, a limited number in an hour.

The refusal of a machine rolls back its transaction, so the entry is written after it. A repeat of the same proof adds no
entry. A refused recovery code is counted and recorded by `RecoveryCodes`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from cloud.fabric.errors import RecoveryCodeRefused, RecoveryRefused
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.service.recovery.codes import RecoveryCodes
from cloud.fabric.service.recovery.tries import Caller
from cloud.fabric.store.keys import refusal_key
from cloud.fabric.store.rows import ActivationRow
from cloud.tasks.source import source_of
from cloud.tasks.tally import Tally

PERIOD = timedelta(hours=1)
ACTIVATIONS_MAX = 1_000
"""Most refused activations that are recorded in PERIOD. Further ones are refused all the same."""


class RecoveryRefusals:
    """Records the refusals of recoveries whose machine was proved."""

    def __init__(self, *, now: Now, transaction: Transaction, audit: AuditLog, codes: RecoveryCodes) -> None:
        self._now = now
        self._transaction = transaction
        self._audit = audit
        self._codes = codes
        self._tally: Tally[str] = Tally(PERIOD, ACTIVATIONS_MAX)

    @asynccontextmanager
    async def attempt(self, row: ActivationRow) -> AsyncIterator[None]:
        """Run the transaction of a proof, and record its refusal.

        Raises TooOften before the block if the machine has presented too many wrong codes.
        """
        try:
            if row.claim is not None and row.claim.code:
                async with self._codes.attempt(Caller(source_of(row.address), row.ek_hash)):
                    yield
            else:
                yield
        except RecoveryCodeRefused:
            raise
        except RecoveryRefused as error:
            await self._note(row, error)
            raise

    async def _note(self, row: ActivationRow, error: RecoveryRefused) -> None:
        now = self._now()
        self._tally.end_all(now)
        if not self._tally.has_room(row.id) or self._tally.add(row.id, now) > 1:
            return
        async with self._transaction(refusal_key(row.id)):
            await self._audit.write(
                ANONYMOUS,
                "recovery.refused",
                row.claim.node if row.claim is not None and row.claim.node else row.id,
                row.tenant,
                "refused",
                activation=row.id,
                reason=error.detail,
                allowed_at=error.allowed_at,
            )
