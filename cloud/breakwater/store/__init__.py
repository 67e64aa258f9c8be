"""Stores: all queries of Breakwater, one class a subject, over an engine that the wiring opens.

Rule: no other module of Breakwater knows a table.
"""

from dataclasses import dataclass

from cloud.breakwater.store.audit import AuditStore
from cloud.breakwater.store.authorities import AuthorityStore
from cloud.breakwater.store.checker_reads import CheckingStore
from cloud.breakwater.store.enrolments import EnrolmentStore
from cloud.breakwater.store.generations import GenerationStore
from cloud.breakwater.store.issuance import IssuanceStore
from cloud.breakwater.store.metrics_reads import MeasureStore
from cloud.breakwater.store.retention import PurgeStore
from cloud.breakwater.store.revocation_status import RevocationStore
from cloud.breakwater.store.revocation_writes import RevokingStore
from cloud.breakwater.store.shards import ShardStore
from cloud.storage import ServiceEngine


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The stores of one Breakwater, by name, and the engine below them."""

    engine: ServiceEngine
    audit: AuditStore
    authorities: AuthorityStore
    checker_reads: CheckingStore
    enrolments: EnrolmentStore
    generations: GenerationStore
    issuance: IssuanceStore
    metrics_reads: MeasureStore
    retention: PurgeStore
    revocation_status: RevocationStore
    revocation_writes: RevokingStore
    shards: ShardStore


def stores_over(engine: ServiceEngine) -> Stores:
    """The stores over an engine, open or not."""
    return Stores(
        engine=engine,
        audit=AuditStore(engine),
        authorities=AuthorityStore(engine),
        checker_reads=CheckingStore(engine),
        enrolments=EnrolmentStore(engine),
        generations=GenerationStore(engine),
        issuance=IssuanceStore(engine),
        metrics_reads=MeasureStore(engine),
        retention=PurgeStore(engine),
        revocation_status=RevocationStore(engine),
        revocation_writes=RevokingStore(engine),
        shards=ShardStore(engine),
    )
