"""Use case: end activations that were not confirmed in time, and free the seats of revoked nodes.

The rows alone say what is due. A lapse has two steps, with a call to Breakwater in between. `begin` closes the
generation in Fabric; from then on the activation cannot be confirmed. `finish` frees the seat after the issuer has
closed the generation too. A seat is freed only if the node was never confirmed, or was released. The seat of a revoked
node is freed once its last lease has terminated.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.audit import SYSTEM
from cloud.fabric.errors import IssuerRefused
from cloud.fabric.issuer import Issuer
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.enrolled import EnrolledStore
from cloud.fabric.store.keys import machines_key, node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow, NodeRow
from cloud.fabric.wake import WakeRoom
from protocol.faults import fault_point

ROWS_MAX = 100
"""Rows of one pass. Further rows are handled in the next pass."""


@dataclass(frozen=True, kw_only=True)
class Lapses:
    """Ends activations that were not confirmed in time, and frees seats."""

    now: Now
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    codes: CodeStore
    nodes: NodeStore
    enrolled: EnrolledStore
    issuer: Issuer
    statement_stream: StatementStream
    wake_room: WakeRoom
    wake_background: WakeBackground

    async def begin_overdue(self) -> None:
        """Begin the lapse of every activation that was not confirmed in time.

        A node that has presented nothing since a restore of the cloud may have confirmed after the backup. Its
        activation stays open until the node comes back, or an operator releases the node.
        """
        for row in await self.activations.overdue(self.now(), ROWS_MAX):
            node = await self.nodes.find(row.node)
            if node is None or node.presented_epoch >= self.statement_stream.epoch:
                await self.begin(row)

    async def begin(self, row: ActivationRow) -> bool:
        """Begin the lapse of one activation. False if it was confirmed or ended first.

        If the node has an open confirmed generation, only the generation of this activation is closed. If it has none,
        every generation up to that of this activation is closed.
        """
        now = self.now()
        with fault_point("fabric.activation.lapse"):
            async with self.transaction(node_key(row.node)):
                if not await self.activations.set_lapsing(row.id):
                    return False
                node = await self.nodes.find(row.node)
                generation = await self.nodes.find_generation(row.node, row.generation)
                if node is None or generation is None:
                    return False
                if not _has_live_generation(node):
                    node = await self.statement_stream.end_open_generations(node, row.generation, now, "superseded")
                elif not is_closed(node, generation):
                    node = await self.statement_stream.write_end(node, generation, now, "superseded")
                await self.nodes.update(node, "lapsed", wakes=True)
                await self.audit.write(
                    SYSTEM, "activation.lapsing", node.id, node.tenant, activation=row.id, generation=row.generation
                )
        self.wake_room.wake(row.node)
        self.wake_background()
        return True

    async def finish_all(self) -> None:
        """Finish every lapse that was begun.

        Raises IssuerUnavailable at the first call that fails. A refusal for one node does not stop the others;
        IssuerRefused is raised at the end.
        """
        refused = None
        for row in await self.activations.lapsing(ROWS_MAX):
            try:
                await self.finish(row)
            except IssuerRefused as error:
                refused = error
        if refused is not None:
            raise refused

    async def finish(self, row: ActivationRow) -> bool:
        """Have the issuer close the generation, then end the lapse, and free the seat if the node no longer needs it.

        The enrolled fingerprint of a node that was never confirmed is deleted, so a machine without a TPM finds the node
        by its key only. Returns False if the lapse was finished before. Raises IssuerUnavailable, IssuerRefused.
        """
        node = await self.nodes.find(row.node)
        if node is None:
            return False
        if node.closed_at_issuer < row.generation:
            await self.issuer.close_generation(row.tenant, row.node, row.generation)
        machines = (machines_key(row.tenant),) if row.tier == "software" else ()
        with fault_point("fabric.activation.lapsed"):
            async with self.transaction(node_key(row.node), *machines):
                node = await self.nodes.find(row.node)
                if node is None or not await self.activations.set_lapsed(row.id):
                    return False
                idle = not _has_live_generation(node) and await self.activations.count_live(node.id) == 0
                # A denied grace lease closes the generation and does not revoke the node. The seat stays the node's.
                denied = node.current_generation > 0 and node.standing in ("active", "suspended")
                keeps = denied or node.standing == "revoked" or row.claim is not None  # a recovery has taken no seat
                freed = idle and not keeps and await self._free(node)
                if machines and idle and not node.current_generation:
                    await self.enrolled.replace(node.tenant, node.id, ())
                await self.audit.write(
                    SYSTEM,
                    "activation.lapsed",
                    node.id,
                    node.tenant,
                    activation=row.id,
                    generation=row.generation,
                    seat_freed=freed,
                )
        return True

    async def free_seats(self) -> None:
        """Free the seats of revoked nodes whose last lease has terminated."""
        now = self.now()
        for node in await self.nodes.seats_due(now, ROWS_MAX):
            await self.free_seat_of_revoked(node, now)

    async def free_seat_of_revoked(self, node: NodeRow, now: datetime) -> bool:
        """Free the seat of a revoked node whose last lease has terminated. True if this call freed it."""
        with fault_point("fabric.seat.free"):
            async with self.transaction(node_key(node.id)):
                fresh = await self.nodes.find(node.id)
                if fresh is None or fresh.standing != "revoked" or fresh.closed_up_to != fresh.last_generation:
                    return False
                if fresh.lease_until is not None and fresh.lease_until > now:
                    return False
                if not await self._free(fresh):
                    return False
                await self.audit.write(SYSTEM, "seat.freed", fresh.id, fresh.tenant, code=fresh.code)
        return True

    async def _free(self, node: NodeRow) -> bool:
        """Free the seat of a node that the transaction has read. False if the node holds none."""
        if not node.seat_held:
            return False
        await self.nodes.update(msgspec.structs.replace(node, seat_held=False), "seat_freed")
        await self.codes.free_seat(node.code)
        return True


def _has_live_generation(node: NodeRow) -> bool:
    """Whether the node has a confirmed generation, and it is open."""
    return node.closed_up_to < node.current_generation
