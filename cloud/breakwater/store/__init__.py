"""All queries of Breakwater, one module a subject. Rule: no other module of Breakwater knows a table."""

from cloud.breakwater.store.issuance import AuditEntry, Device, Order, ServiceHostName, Store, serial_text

__all__ = ["AuditEntry", "Device", "Order", "ServiceHostName", "Store", "serial_text"]
