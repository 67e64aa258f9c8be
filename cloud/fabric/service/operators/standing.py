"""Use case: operators suspend, resume, revoke and release nodes.

The change is committed in Fabric's database first. The background work then asks Breakwater to close the generations
that the change has closed.
"""

from dataclasses import dataclass

import msgspec

from cloud.contracts.fabric_events import NodePast
from cloud.fabric import schemas
from cloud.fabric.errors import NotFound
from cloud.fabric.licensing.standing import Change, after, closes
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.nodes.clones import SUSPENDED_BY_POLICY
from cloud.fabric.service.nodes.release import hand_back
from cloud.fabric.service.nodes.statement_stream import StatementStream
from cloud.fabric.service.ports import Now, WakeBackground
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.keys import node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import NodeRow
from cloud.fabric.wake import WakeRoom
from cloud.http.guard import Operator
from protocol.faults import fault_point
from protocol.ids import NodeId

PASTS: dict[Change, NodePast] = {
    "suspend": "suspended",
    "resume": "resumed",
    "revoke": "revoked",
    "release": "released",
}
"""What each change is called in events."""


@dataclass(frozen=True, kw_only=True)
class Standings:
    """Suspends, resumes, revokes and releases nodes."""

    now: Now
    acting: Acting
    audit: AuditLog
    codes: CodeStore
    nodes: NodeStore
    statement_stream: StatementStream
    wake_room: WakeRoom
    wake_background: WakeBackground

    async def change(
        self, operator: Operator, node_id: NodeId, what: Change, reason: str, dry_run: bool = False
    ) -> schemas.Node:
        """Change the standing, and sign the statements that follow. A repeat changes nothing.

        A dry run returns the node as it would be. Its statements are thrown away.

        Raises NotFound, Conflict, Invalid.
        """
        check_text("reason", reason)
        node = await self._find(node_id)
        if _is_done(node, what):
            return views.node(node)
        with fault_point("fabric.standing.commit"):
            async with self.acting.transaction(operator, node_key(node_id), dry_run=dry_run):
                node = await self._find(node_id)
                if _is_done(node, what):
                    return views.node(node)
                node = await self._changed(node, what, reason)
                await self.audit.write(
                    operator_actor(operator),
                    f"node.{what}",
                    node.id,
                    node.tenant,
                    reason=reason,
                    generation=node.current_generation,
                    seq=node.seq,
                )
        if not dry_run:
            self.wake_room.wake(node.id)
            self.wake_background()
        return views.node(node)

    async def _find(self, node_id: NodeId) -> NodeRow:
        node = await self.nodes.find(node_id)
        if node is None:
            raise NotFound("no such node")
        return node

    async def _changed(self, node: NodeRow, what: Change, reason: str) -> NodeRow:
        now = self.now()
        node = msgspec.structs.replace(
            node,
            standing=after(node.standing, what),
            standing_reason="" if what == "resume" else reason,
            standing_at=now,
        )
        if what == "release":
            node = await hand_back(self.statement_stream, self.codes, node, now)
        elif what == "revoke":
            node = await self.statement_stream.end_open_generations(node, node.last_generation, now, "revoked")
        else:
            for generation in await self.nodes.open_generations(node.id, node.last_generation):
                if generation.state == "confirmed":
                    node, _ = await self.statement_stream.write_current(node, generation, now)
        await self.nodes.update(node, PASTS[what], wakes=True)
        return node


def _is_done(node: NodeRow, what: Change) -> bool:
    """Whether the change is a repeat with no effect.

    A second revoke or release has an effect if the node has an open generation, for example an activation that is to
    readmit it. A suspension by a person takes the place of one by the policy for clones, so that settling does not end it.
    The statement of a node with a hold is an earlier one, so each change signs another.
    """
    if node.hold and after(node.standing, what):
        return False
    if what == "suspend" and (node.standing, node.standing_reason) == ("suspended", SUSPENDED_BY_POLICY):
        return False
    if after(node.standing, what) != node.standing:
        return False
    return not (closes(what) and node.closed_up_to < node.last_generation)
