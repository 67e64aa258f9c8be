"""Wiring: makes the parts that work after a restore of the cloud. Decides nothing."""

from dataclasses import dataclass

from cloud.fabric.background import IDLE_SECONDS, Periodic
from cloud.fabric.routes.buckets import ACTIVATION, NODE, RENEWAL, SESSION
from cloud.fabric.secrets import Secrets
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.restored.holds import Holds
from cloud.fabric.service.restored.rebuilding import CHECKED_SECONDS, Rebuilds
from cloud.fabric.service.restored.reconciling import WATCH_SECONDS, Reconciling, waits_at_start
from cloud.fabric.store import Stores
from cloud.fabric.wiring.node_parts import NodeParts
from cloud.fabric.wiring.part_groups import Ports, Shared
from cloud.http.admission import Bucket
from cloud.http.readiness import Probe, trouble_probe

OF_NODES = (ACTIVATION, NODE, RENEWAL, SESSION)
"""The buckets of the routes that wait until the generations are compared."""
WAITING = "this cloud was restored and compares its records first"


@dataclass(frozen=True, kw_only=True)
class RestoredParts:
    """Use cases after a restore."""

    reconciling: Reconciling
    holds: Holds
    rebuilds: Rebuilds

    def waits(self, bucket: Bucket | None) -> str:
        """Why a route with this bucket refuses every caller now; empty if it does not."""
        return WAITING if self.reconciling.pending.waits and bucket in OF_NODES else ""

    def probe(self) -> Probe:
        """The probe of the comparison with Breakwater after a restore."""
        return trouble_probe(
            "restore",
            "not_reconciled",
            lambda: self.reconciling.pending.cause,
            "Check that Breakwater runs and can be reached at `breakwater_url`. Fabric tries again every few seconds.",
            needed=True,
        )

    def periodic(self) -> tuple[Periodic, ...]:
        """The background work."""
        return (
            Periodic("reconcile", IDLE_SECONDS, self.reconciling.at_start),
            Periodic("breakwater-restored", WATCH_SECONDS, self.reconciling.watch),
            Periodic("rebuild-end", CHECKED_SECONDS, self.rebuilds.end_overdue),
        )


def make_restored_parts(
    stores: Stores, ports: Ports, secrets: Secrets, shared: Shared, nodes: NodeParts
) -> RestoredParts:
    reconciling = Reconciling(
        epoch=secrets.epoch,
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        nodes=stores.nodes,
        activations=stores.activations,
        closed=stores.closed,
        installation=stores.installation,
        issuer=ports.issuer,
        lapses=nodes.lapses,
        statement_stream=shared.statement_stream,
        pending=waits_at_start(secrets.epoch),
        wake_background=shared.woken.set,
    )
    return RestoredParts(
        reconciling=reconciling,
        holds=Holds(
            epoch=secrets.epoch,
            now=ports.now,
            acting=shared.acting,
            audit=shared.audit,
            nodes=stores.nodes,
            filters=ListFilters(tenants=stores.tenants, codes=stores.codes),
            statement_stream=shared.statement_stream,
            wake_room=shared.wake_room,
        ),
        rebuilds=Rebuilds(
            now=ports.now,
            transaction=stores.transaction,
            acting=shared.acting,
            audit=shared.audit,
            installation=stores.installation,
            nodes=stores.nodes,
            closed=stores.closed,
            reconciling=reconciling,
        ),
    )
