"""Use case: record refused session proofs in the audit, a limited number for each generation.

A valid device certificate with a wrong proof is recorded. A request without a valid device certificate is not. A device
certificate is not secret, so without the limit anyone who has a copy could fill the disk with entries.
"""

from datetime import timedelta

from cloud.fabric.errors import Refused
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.device_certificate import Device
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.keys import refusal_key
from cloud.fabric.store.rows import generation_id
from cloud.tasks.tally import Tally
from protocol.faults import fault_point

REFUSALS_AUDITED_MAX = 20
REFUSALS_PERIOD = timedelta(hours=1)
"""Most audit entries for one generation in REFUSALS_PERIOD. A faulty node causes a few."""
GENERATIONS_MAX = 100_000
"""Most generations that are counted at a time, in about 30 MB. Refusals of further generations are not recorded."""


class SessionRefusals:
    """Counts refused proofs, and records the first REFUSALS_AUDITED_MAX of each generation and hour."""

    def __init__(self, *, now: Now, transaction: Transaction, audit: AuditLog) -> None:
        self._now = now
        self._transaction = transaction
        self._audit = audit
        self._tally: Tally[str] = Tally(REFUSALS_PERIOD, GENERATIONS_MAX)

    async def note(self, device: Device, error: Refused) -> None:
        """Count a refused proof with this device certificate, and record it within the limits."""
        now, key = self._now(), generation_id(device.spiffe.node, device.generation)
        self._tally.end_all(now)
        if not self._tally.has_room(key) or self._tally.add(key, now) > REFUSALS_AUDITED_MAX:
            return
        with fault_point("fabric.session.refuse"):
            async with self._transaction(refusal_key(key)):
                await self._audit.write(
                    str(device.spiffe),
                    "session.refused",
                    device.spiffe.node,
                    device.spiffe.tenant,
                    "refused",
                    generation=device.generation,
                    reason=error.detail,
                )
