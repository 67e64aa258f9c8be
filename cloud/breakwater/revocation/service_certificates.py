"""Use cases: revoke one certificate of a service by its serial, or all certificates of a service. Both are permanent.

Certificates of nodes are revoked when their generation is closed (`cloud.breakwater.generations`).
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
    """Revokes certificates of services, and calls `revoked` after each revocation."""

    def __init__(self, store: RevocationWriteStore, entries: AuditEntries[AuditRow], revoked: Revoked) -> None:
        self._store = store
        self._entries = entries
        self._revoked = revoked

    async def revoke(self, caller: str, serial: int, reason: RevocationReason) -> bool:
        """Revoke the certificate with this serial. Return False if it was already revoked.

        Raises:
            NotAdmitted: no certificate has this serial.
            ValueRefused: the certificate is not a service's.
        """
        text = serial_text(serial)
        entry = self._entries.make(caller, "certificate.revoke", text, detail=reason)
        with fault_point("breakwater.certificate.revoke"):
            revoked = await self._store.revoke(text, REASON_NUMBERS[reason], entry.at, entry)
        if revoked:
            self._revoked("service", reason)
        return revoked

    async def revoke_all(self, caller: str, service: str, reason: RevocationReason) -> tuple[str, ...]:
        """Revoke every unexpired certificate of a service. Return the newly revoked serials in hex.

        Raises ValueRefused if no service has this name.
        """
        if service not in SERVICE_NAMES:
            raise ValueRefused("there is no service of this name")
        entry = self._entries.make(caller, "service.revoke", service, detail=reason)
        with fault_point("breakwater.service.revoke"):
            serials = await self._store.revoke_service(service, REASON_NUMBERS[reason], entry.at, entry)
        if serials:
            self._revoked("service", reason)
        return serials
