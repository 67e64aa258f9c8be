"""All queries of Fabric, one module a subject, and the transaction they share.

Rule: no other module of Fabric knows a table. A query that changes a state by compare-and-set answers whether it
held; deciding is the service's business.
"""

from cloud.fabric.store import (
    activations,
    adoption,
    audit,
    codes,
    installation,
    nodes,
    renewals,
    revoked,
    tenants,
    tokens,
)
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tables import ENGINE
from cloud.storage.engine import Transaction


def transaction() -> Transaction:
    """One transaction over everything here: durable when its block ends."""
    return ENGINE.transaction()


__all__ = [
    "RepositoryStore",
    "activations",
    "adoption",
    "audit",
    "codes",
    "installation",
    "nodes",
    "renewals",
    "revoked",
    "tenants",
    "tokens",
    "transaction",
]
