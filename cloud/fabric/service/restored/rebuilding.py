"""Use case: an operator begins and ends a rebuild after the loss of the database, and imports what is known to be closed.

While a rebuild runs, `cloud.fabric.service.restored.reconstructing` makes rows of nodes that Fabric does not know. A
rebuild that no operator ends ends by itself: a row needs only a genuine certificate and lease, and a revoked node may
have both.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cloud.audit import SYSTEM
from cloud.contracts.breakwater import NodeGenerations
from cloud.fabric.bodies.restored import BeginRebuild, ChangeRebuild, ImportClosed, Rebuild
from cloud.fabric.errors import Invalid
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.service.restored.reconciling import Reconciling
from cloud.fabric.store.installation import REBUILD_LIFE, InstallationStore, RunningRebuild
from cloud.fabric.store.keys import RESTORE
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.revoked import ClosedStore
from cloud.http.guard import Operator

REBUILD_LIFE_MAX = timedelta(days=90)
"""The latest end of a rebuild. The longest default lease terminates after 60 days."""
CHECKED_SECONDS = 60.0
"""How often the end of a rebuild is checked. No row is made after the end, whenever it is checked."""
COUNTED_MAX = 1000
"""Unconfirmed nodes that are counted. The list shows all of them."""


@dataclass(frozen=True, kw_only=True)
class Rebuilds:
    """Begins and ends a rebuild, and imports closed generations and serial numbers."""

    now: Now
    transaction: Transaction
    acting: Acting
    audit: AuditLog
    installation: InstallationStore
    nodes: NodeStore
    closed: ClosedStore
    reconciling: Reconciling

    async def show(self, imported: int = 0) -> Rebuild:
        """The state of the rebuild. `imported` is passed on."""
        waiting = await self.nodes.held("unconfirmed", "", "", COUNTED_MAX)
        running = await self._running()
        since, until = (running.since, running.until) if running is not None else (None, None)
        return Rebuild(since, len(waiting), imported, until)

    async def begin(self, operator: Operator, body: BeginRebuild) -> Rebuild:
        """Begin a rebuild, or set the end of one that runs. A repeat changes nothing. Raises Invalid."""
        check_text("reason", body.reason)
        now = self.now()
        if body.until is not None and not now < body.until <= now + REBUILD_LIFE_MAX:
            raise Invalid(f"until: in the future, and at most {REBUILD_LIFE_MAX.days} days from now")
        async with self.acting.transaction(operator, RESTORE):
            running = await self._running()
            if running is None:
                action, begun = "rebuild.begun", RunningRebuild(now, body.until or now + REBUILD_LIFE)
            else:
                action, begun = "rebuild.end_set", RunningRebuild(running.since, body.until or running.until)
            if begun != running:
                await self.installation.set_rebuild(begun)
                await self._audit(operator, action, body.reason, until=begun.until)
        return await self.show()

    async def end(self, operator: Operator, body: ChangeRebuild) -> Rebuild:
        """End the rebuild: unknown nodes are refused again. Nodes that wait stay. A repeat changes nothing.

        Raises Invalid.
        """
        check_text("reason", body.reason)
        async with self.acting.transaction(operator, RESTORE):
            if await self.installation.end_rebuild():
                await self._audit(operator, "rebuild.ended", body.reason)
        return await self.show()

    async def end_overdue(self) -> None:
        """End a rebuild whose end has passed, with an entry in the audit."""
        rebuild = await self.installation.rebuild()
        if rebuild is None or self.now() < rebuild.until:
            return
        async with self.transaction(RESTORE):
            if await self._running() is None and await self.installation.end_rebuild():
                await self.audit.write(SYSTEM, "rebuild.ended", "", "", reason="its time is over", until=rebuild.until)

    async def _running(self) -> RunningRebuild | None:
        """The rebuild that runs now, or None."""
        rebuild = await self.installation.rebuild()
        return rebuild if rebuild is not None and self.now() < rebuild.until else None

    async def import_closed(self, operator: Operator, body: ImportClosed) -> Rebuild:
        """Add closed generations and serial numbers. Nodes that have a row are closed now. A repeat adds nothing."""
        added = 0
        for each in body.generations:
            added += await self.reconciling.take_import(NodeGenerations(each.node, each.tenant, each.up_to))
        async with self.acting.transaction(operator, RESTORE):
            added += await self.closed.add_serials(body.serials, self.now())
            if added:
                await self._audit(operator, "rebuild.imported", "", added)
        return await self.show(added)

    async def _audit(
        self, operator: Operator, action: str, reason: str, imported: int = 0, until: datetime | None = None
    ) -> None:
        added = imported or ""
        await self.audit.write(operator_actor(operator), action, "", "", reason=reason, imported=added, until=until)
