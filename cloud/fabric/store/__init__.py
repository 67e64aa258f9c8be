"""Stores: all queries of Fabric, one class a subject, over an engine that the wiring opens.

Rules: Only stores and migrations use tables. A query that changes a state by compare-and-set returns True if it changed
the row. The use case decides what follows.
"""

from dataclasses import dataclass

from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.adoption import AdoptionStore
from cloud.fabric.store.airgap import AirgapStore
from cloud.fabric.store.audit import AuditStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.denied import DeniedStore
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.fabric.store.events.facts import Adds, Facts, NoOutbox
from cloud.fabric.store.events.first_events import FirstEventStore
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.recovery_codes import RecoveryCodeStore
from cloud.fabric.store.renewals import RenewalStore
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.store.revoked import ClosedStore, RevokedStore
from cloud.fabric.store.tenants import TenantStore
from cloud.fabric.store.tokens import ConsumerStore, TokenStore
from cloud.storage import ServiceEngine
from cloud.storage.engine import Transaction


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The stores of one Fabric, and the transaction that they share."""

    engine: ServiceEngine
    activations: ActivationStore
    adoption: AdoptionStore
    airgap: AirgapStore
    audit: AuditStore
    closed: ClosedStore
    codes: CodeStore
    consumers: ConsumerStore
    denied: DeniedStore
    enrolled: EnrolledStore
    first_events: FirstEventStore
    installation: InstallationStore
    nodes: NodeStore
    recovery_cases: RecoveryCaseStore
    recovery_codes: RecoveryCodeStore
    renewals: RenewalStore
    repository: RepositoryStore
    revoked: RevokedStore
    tenants: TenantStore
    tokens: TokenStore

    def transaction(self, *keys: str, reads: tuple[str, ...] = (), patience: float | None = None) -> Transaction:
        """One transaction over all stores. It is committed when its block ends. `store.keys` has the rules of keys."""
        return self.engine.transaction(*keys, reads=reads, patience=patience)


def stores_over(engine: ServiceEngine, outbox: Adds | None = None) -> Stores:
    """Make the stores over an engine. The engine may be opened later.

    Without an outbox they cannot write what has events: tenants, nodes, codes and statements.
    """
    facts = Facts(NoOutbox() if outbox is None else outbox)
    return Stores(
        engine=engine,
        activations=ActivationStore(engine),
        adoption=AdoptionStore(engine),
        airgap=AirgapStore(engine),
        audit=AuditStore(engine),
        closed=ClosedStore(engine),
        codes=CodeStore(engine, facts),
        consumers=ConsumerStore(engine),
        denied=DeniedStore(engine),
        enrolled=EnrolledStore(engine),
        first_events=FirstEventStore(engine, facts),
        installation=InstallationStore(engine),
        nodes=NodeStore(engine, facts),
        recovery_cases=RecoveryCaseStore(engine),
        recovery_codes=RecoveryCodeStore(engine),
        renewals=RenewalStore(engine),
        repository=RepositoryStore(engine),
        revoked=RevokedStore(engine),
        tenants=TenantStore(engine, facts),
        tokens=TokenStore(engine),
    )
