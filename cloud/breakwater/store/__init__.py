"""Stores: all database queries of Breakwater, one class for each subject. The wiring opens the engine.

Rule: Only the stores use the tables.
"""

from dataclasses import dataclass

from cloud.breakwater.store.audit import AuditStore
from cloud.breakwater.store.authorities import AuthorityStore
from cloud.breakwater.store.checker_reads import CheckerStore
from cloud.breakwater.store.enrolments import EnrolmentStore
from cloud.breakwater.store.events import EventStore
from cloud.breakwater.store.generation_lists import GenerationListStore
from cloud.breakwater.store.generations import GenerationStore
from cloud.breakwater.store.issuance import IssuanceStore
from cloud.breakwater.store.metrics_reads import MetricsStore
from cloud.breakwater.store.retention import RetentionStore
from cloud.breakwater.store.revocation_status import RevocationStatusStore
from cloud.breakwater.store.revocation_writes import RevocationWriteStore
from cloud.breakwater.store.root_crls import RootCrlStore
from cloud.breakwater.store.shards import ShardStore
from cloud.events.outbox import Outbox
from cloud.storage import ServiceEngine


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The stores of one Breakwater, and their engine."""

    engine: ServiceEngine
    audit: AuditStore
    authorities: AuthorityStore
    checker_reads: CheckerStore
    enrolments: EnrolmentStore
    events: EventStore
    generation_lists: GenerationListStore
    generations: GenerationStore
    issuance: IssuanceStore
    metrics_reads: MetricsStore
    retention: RetentionStore
    revocation_status: RevocationStatusStore
    revocation_writes: RevocationWriteStore
    root_crls: RootCrlStore
    shards: ShardStore


def stores_over(engine: ServiceEngine, outbox: Outbox) -> Stores:
    """Make the stores over an engine, which add their events to `outbox`. The engine may be opened later."""
    events = EventStore(engine, outbox)
    return Stores(
        engine=engine,
        audit=AuditStore(engine),
        authorities=AuthorityStore(engine, events),
        checker_reads=CheckerStore(engine),
        enrolments=EnrolmentStore(engine),
        events=events,
        generation_lists=GenerationListStore(engine),
        generations=GenerationStore(engine, events),
        issuance=IssuanceStore(engine, events),
        metrics_reads=MetricsStore(engine),
        retention=RetentionStore(engine),
        revocation_status=RevocationStatusStore(engine),
        revocation_writes=RevocationWriteStore(engine, events),
        root_crls=RootCrlStore(engine),
        shards=ShardStore(engine),
    )
