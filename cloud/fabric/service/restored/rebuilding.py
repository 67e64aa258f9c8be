"""Use case: an operator begins and ends a rebuild after the loss of the database, and imports what is known to be closed.

While a rebuild runs, `cloud.fabric.service.restored.reconstructing` makes rows of nodes that Fabric does not know.
"""

from dataclasses import dataclass

from cloud.contracts.breakwater import NodeGenerations
from cloud.fabric.bodies.restored import ChangeRebuild, ImportClosed, Rebuild
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.ports import Now
from cloud.fabric.service.restored.reconciling import Reconciling
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.keys import RESTORE
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.revoked import ClosedStore
from cloud.http.guard import Operator

COUNTED_MAX = 1000
"""Unconfirmed nodes that are counted. The list shows all of them."""


@dataclass(frozen=True, kw_only=True)
class Rebuilds:
    """Begins and ends a rebuild, and imports closed generations and serial numbers."""

    now: Now
    acting: Acting
    audit: AuditLog
    installation: InstallationStore
    nodes: NodeStore
    closed: ClosedStore
    reconciling: Reconciling

    async def show(self, imported: int = 0) -> Rebuild:
        """The state of the rebuild. `imported` is passed on."""
        waiting = await self.nodes.held("unconfirmed", "", "", COUNTED_MAX)
        return Rebuild(await self.installation.rebuild_since(), len(waiting), imported)

    async def begin(self, operator: Operator, body: ChangeRebuild) -> Rebuild:
        """Begin a rebuild. A repeat changes nothing. Raises Invalid."""
        check_text("reason", body.reason)
        async with self.acting.transaction(operator, RESTORE):
            if await self.installation.rebuild_since() is None:
                await self.installation.begin_rebuild(self.now())
                await self._audit(operator, "rebuild.begun", body.reason)
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

    async def _audit(self, operator: Operator, action: str, reason: str, imported: int = 0) -> None:
        await self.audit.write(operator_actor(operator), action, "", "", reason=reason, imported=imported or "")
