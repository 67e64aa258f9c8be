"""Use cases: certificates of services are revoked, one by its serial or all of a service, for ever.

Certificates of nodes are revoked by closing their generations (`cloud.breakwater.generations`).
"""

from cloud.audit import AuditEntries
from cloud.breakwater.errors import ValueRefused
from cloud.breakwater.generations import Revoked
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.revocation_writes import RevocationWriteStore
from cloud.contracts.breakwater import REASON_NUMBERS, RevocationReason
from protocol.faults import fault_point
from protocol.ids import SERVICE_NAMES


class ServiceCertificates:
    """Revokes certificates of services. `revoked` is called after every revocation."""

    def __init__(self, store: RevocationWriteStore, entries: AuditEntries[AuditRow], revoked: Revoked) -> None:
        self._store = store
        self._entries = entries
        self._revoked = revoked

    async def revoke(self, caller: str, serial: int, reason: RevocationReason) -> bool:
        """Revoke one certificate; False if it was revoked before. Raises NotAdmitted, ValueRefused."""
        text = serial_text(serial)
        entry = self._entries.make(caller, "certificate.revoke", text, detail=reason)
        with fault_point("breakwater.certificate.revoke"):
            revoked = await self._store.revoke(text, REASON_NUMBERS[reason], entry.at, entry)
        if revoked:
            self._revoked("service", reason)
        return revoked

    async def revoke_all(self, caller: str, service: str, reason: RevocationReason) -> tuple[str, ...]:
        """Revoke every certificate of a service; returns the serials (hex) that were not yet. Raises ValueRefused."""
        if service not in SERVICE_NAMES:
            raise ValueRefused("there is no service of this name")
        entry = self._entries.make(caller, "service.revoke", service, detail=reason)
        with fault_point("breakwater.service.revoke"):
            serials = await self._store.revoke_service(service, REASON_NUMBERS[reason], entry.at, entry)
        if serials:
            self._revoked("service", reason)
        return serials
