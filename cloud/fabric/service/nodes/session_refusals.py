"""Use case: writes refused session proofs into the audit, a bounded number for each generation.

A good certificate with a bad proof is worth an entry; a certificate that is not of a node of ours is not. The certificate
is no secret, so whoever has its file could fill the disk.
"""

from datetime import timedelta

from cloud.fabric.errors import Refused
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.device_certificate import Device
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.rows import generation_id
from cloud.tasks.tally import Tally
from protocol.faults import fault_point

REFUSALS_AUDITED_MAX = 20
REFUSALS_PERIOD = timedelta(hours=1)
"""Refused proofs of one generation that are written down in such a time; a node that is merely wrong makes a few."""
GENERATIONS_MAX = 100_000
"""Generations that are counted at a time, about 30 MB. The refused proofs of more are not written down."""


class SessionRefusals:
    """Counts refused proofs, and writes down the first of each generation and hour."""

    def __init__(self, *, now: Now, transaction: Transaction, audit: AuditLog) -> None:
        self._now = now
        self._transaction = transaction
        self._audit = audit
        self._tally: Tally[str] = Tally(REFUSALS_PERIOD, GENERATIONS_MAX)

    async def note(self, device: Device, error: Refused) -> None:
        """Count a refused proof of this device certificate."""
        now, key = self._now(), generation_id(device.spiffe.node, device.generation)
        self._tally.end_all(now)
        if not self._tally.has_room(key) or self._tally.add(key, now) > REFUSALS_AUDITED_MAX:
            return
        with fault_point("fabric.session.refuse"):
            async with self._transaction():
                await self._audit.write(
                    str(device.spiffe),
                    "session.refused",
                    device.spiffe.node,
                    device.spiffe.tenant,
                    "refused",
                    generation=device.generation,
                    reason=error.detail,
                )
