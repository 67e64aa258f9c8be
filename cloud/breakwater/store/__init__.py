"""All queries of Breakwater, one module a subject. Rule: no other module of Breakwater knows a table."""

from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.store.authorities import AuthorityRow, AuthorityState, AuthorityStore, CrossRow
from cloud.breakwater.store.generations import GenerationStore
from cloud.breakwater.store.issuance import Device, IssuanceStore, Order, ServiceHostName, Stored, serial_text
from cloud.breakwater.store.retention import PurgeStore
from cloud.breakwater.store.revocation_writes import RevokingStore
from cloud.storage import ServiceEngine

__all__ = [
    "AuditRow",
    "AuditStore",
    "AuthorityRow",
    "AuthorityState",
    "AuthorityStore",
    "CrossRow",
    "Device",
    "GenerationStore",
    "IssuanceStore",
    "Order",
    "PurgeStore",
    "RevokingStore",
    "ServiceHostName",
    "Store",
    "Stored",
    "serial_text",
]


class Store:
    """What issuing needs of the database, over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self.issuance = IssuanceStore(engine)
        self.generations = GenerationStore(engine)
        self.revoking = RevokingStore(engine)
        self.audit = AuditStore(engine)
        self.purging = PurgeStore(engine)
