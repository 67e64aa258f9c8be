"""Use case: compare the generations of Fabric with those of Breakwater, and bring each side up to the other.

A database that was restored from a backup has forgotten generations. A generation that one side has closed is closed for
ever, so the other side closes it too. A generation that is open in Fabric is opened at Breakwater, or the node would get
no session. Every step can be repeated, so a comparison may be interrupted at any point.

After a restore of Fabric's database, no node is served before Fabric has taken the closed generations from Breakwater.
After a restore of Breakwater's database, Fabric finds out within `WATCH_SECONDS`, and sends its commands again.
"""

import asyncio
from dataclasses import dataclass, field

import msgspec

from cloud.audit import SYSTEM
from cloud.contracts.breakwater import NodeGenerations
from cloud.fabric.bodies.restored import Order, Reconciliation, Repair, Sent, Taken
from cloud.fabric.errors import IssuerRefused, IssuerUnavailable
from cloud.fabric.issuer import Issuer
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.statement_stream import StatementStream
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.keys import RESTORE, node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.revoked import ClosedRow, ClosedStore
from cloud.fabric.store.rows import FIRST_EPOCH, NodeRow
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.signed.statements import RevocationReason

WATCH_SECONDS = 60.0
"""Interval of the question whether Breakwater's database was restored."""
PAGE_NODES = 100
LISTED_MAX = 1000
"""Changes that a result lists. All of them are counted."""
CLOSED_AT_BREAKWATER = "Breakwater had closed every generation when Fabric's database was restored"
"""The reason of the standing of a node that was revoked or released after the backup. Breakwater does not know which."""


class Pending:
    """Whether nodes have to wait for the comparison, and why the last try failed."""

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.trouble = ""

    @property
    def cause(self) -> str:
        """Why nodes are not served; empty if they are."""
        if not self.waits:
            return ""
        why = f": {self.trouble}" if self.trouble else ""
        return f"the database was restored, and the closed generations are not taken from Breakwater yet{why}"


@dataclass
class _Counted:
    """The result of a comparison while it runs."""

    nodes: int = 0
    taken_count: int = 0
    sent_count: int = 0
    taken: list[Taken] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    refused: list[Sent] = field(default_factory=list)

    def take(self, node: NodeRow | NodeGenerations, generation: int, change: Repair) -> None:
        self.taken_count += 1
        name = node.id if isinstance(node, NodeRow) else node.node
        if len(self.taken) < LISTED_MAX:
            self.taken.append(Taken(name, node.tenant, generation, change))

    def send(self, node: NodeRow, generation: int, order: Order, *, refused: bool) -> None:
        self.sent_count += not refused
        listed = self.refused if refused else self.sent
        if len(listed) < LISTED_MAX:
            listed.append(Sent(node.id, node.tenant, generation, order))


@dataclass(frozen=True, kw_only=True)
class Reconciling:
    """Compares generations. `epoch` is the installation's epoch."""

    epoch: int
    now: Now
    transaction: Transaction
    audit: AuditLog
    nodes: NodeStore
    activations: ActivationStore
    closed: ClosedStore
    installation: InstallationStore
    issuer: Issuer
    lapses: Lapses
    statement_stream: StatementStream
    pending: Pending
    wake_background: WakeBackground
    running: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def at_start(self) -> None:
        """Compare once after a restore of Fabric's database. Then nodes are served. Background task.

        Raises IssuerUnavailable, IssuerRefused; the next pass tries again.
        """
        if not self.pending.waits:
            return
        epoch, _ = await self.installation.reconciled()
        try:
            if epoch < self.epoch:
                await self.run(SYSTEM)
        except (IssuerUnavailable, IssuerRefused) as error:
            self.pending.trouble = str(error)
            raise
        self.pending.waits = False

    async def watch(self) -> None:
        """Compare if Breakwater's database was restored since the last comparison. Background task.

        Raises IssuerUnavailable, IssuerRefused; the next pass tries again.
        """
        _, restored = await self.installation.reconciled()
        if (await self.issuer.list_generations(_LAST)).restored != restored:
            await self.run(SYSTEM)

    async def run(self, actor: str, *, dry_run: bool = False) -> Reconciliation:
        """Compare all generations, and change both sides unless `dry_run`. `actor` is the name in the audit.

        Raises IssuerUnavailable, IssuerRefused.
        """
        async with self.running:
            counted, known = _Counted(), set[NodeId]()
            page = first = await self.issuer.list_generations("")
            while True:
                for entry in page.nodes:
                    known.add(entry.node)
                    await self._compare(entry, counted, dry_run=dry_run)
                if not page.cursor:
                    break
                page = await self.issuer.list_generations(page.cursor)
            await self._send_for_unlisted(known, counted, dry_run=dry_run)
            if not dry_run:
                await self._finish(actor, counted, first.restored)
                self.wake_background()
        return Reconciliation(
            dry_run=dry_run,
            nodes=counted.nodes,
            taken_count=counted.taken_count,
            sent_count=counted.sent_count,
            taken=tuple(counted.taken),
            sent=tuple(counted.sent),
            refused=tuple(counted.refused),
        )

    async def take_import(self, entry: NodeGenerations) -> bool:
        """Close in Fabric the generations that an operator knows to be closed. False if they were closed."""
        counted, node = _Counted(), await self.nodes.find(entry.node)
        if node is None:
            await self._remember(entry, counted, dry_run=False)
        elif node.tenant == entry.tenant:
            await self._take(node, entry, counted, dry_run=False)
            self.wake_background()
        return counted.taken_count > 0

    async def _finish(self, actor: str, counted: _Counted, restored: int) -> None:
        """Store that the generations are compared. `restored` is the time of Breakwater's last restore."""
        with fault_point("fabric.reconcile.done"):
            async with self.transaction(RESTORE):
                await self.installation.set_reconciled(self.epoch, restored)
                await self.audit.write(
                    actor,
                    "installation.reconciled",
                    "",
                    "",
                    epoch=self.epoch,
                    nodes=counted.nodes,
                    taken=counted.taken_count,
                    sent=counted.sent_count,
                    refused=len(counted.refused),
                )

    async def _compare(self, entry: NodeGenerations, counted: _Counted, *, dry_run: bool) -> None:
        node = await self.nodes.find(entry.node)
        if node is None:
            await self._remember(entry, counted, dry_run=dry_run)
            return
        if node.tenant != entry.tenant:
            counted.send(node, node.last_generation, "open", refused=True)
            return
        counted.nodes += 1
        await self._take(node, entry, counted, dry_run=dry_run)
        await self._send(node.id, entry, counted, dry_run=dry_run)

    # Fabric takes.

    async def _remember(self, entry: NodeGenerations, counted: _Counted, *, dry_run: bool) -> None:
        """Store the closed generations of a node that Fabric has no row of."""
        if not entry.closed_up_to and not entry.closed:
            return
        row = ClosedRow(entry.node, entry.tenant, entry.closed_up_to, entry.closed, "breakwater", self.now())
        known = await self.closed.find(entry.node)
        if known is not None and all(map(known.includes, (entry.closed_up_to, *entry.closed))):
            return
        if not dry_run:
            await self.closed.add(row)
        counted.take(entry, max((entry.closed_up_to, *entry.closed)), "remembered")

    async def _take(self, node: NodeRow, entry: NodeGenerations, counted: _Counted, *, dry_run: bool) -> None:
        """Close in Fabric what Breakwater has closed."""
        opened = await self.nodes.open_generations(node.id, node.last_generation)
        for generation in opened:
            ended = generation.number in entry.closed or generation.number <= entry.closed_up_to
            if generation.state == "offered" and ended and generation.number > node.closed_up_to:
                counted.take(node, generation.number, "lapsed")
                if not dry_run:
                    await self._lapse(node, generation.number)
        if not dry_run:
            with fault_point("fabric.reconcile.take"):
                async with self.transaction(node_key(node.id)):
                    fresh = await self.nodes.find(node.id)
                    if fresh is not None:
                        await self._taken(fresh, entry, counted)
            return
        if node.current_generation or not any(generation.state == "offered" for generation in opened):
            for change, closed in _changes(node, entry):
                counted.take(node, closed, change)

    async def _lapse(self, node: NodeRow, number: int) -> None:
        """Let the activation of a generation that was never confirmed lapse. The lapse frees its seat."""
        activation = await self.activations.find_by_generation(node.id, number)
        if activation is not None:
            await self.lapses.begin(activation)

    async def _taken(self, node: NodeRow, entry: NodeGenerations, counted: _Counted) -> None:
        """Write what Breakwater has recorded of a node, in the caller's transaction."""
        changes, now = _changes(node, entry), self.now()
        if not changes:
            return
        later = max(node.last_generation, entry.closed_up_to, *entry.opened, *entry.closed)
        changed = msgspec.structs.replace(node, last_generation=later)
        for change, generation in changes:
            counted.take(node, generation, change)
            if change == "revoked":
                changed = msgspec.structs.replace(
                    changed, standing="revoked", standing_reason=CLOSED_AT_BREAKWATER, standing_at=now
                )
            if change in ("revoked", "closed"):
                reason: RevocationReason = "revoked" if change == "revoked" else "superseded"
                changed = await self.statement_stream.end_open_generations(changed, generation, now, reason)
        if changed.closed_up_to >= changed.current_generation > node.closed_up_to and changed.standing != "revoked":
            # The node was activated again after the backup. The machine shows the later generation.
            changed = msgspec.structs.replace(changed, hold="conflicting", hold_at=now)
        await self.nodes.update(changed, "revoked" if changed.standing == "revoked" else "changed", wakes=True)
        await self.audit.write(
            SYSTEM,
            "node.reconciled",
            node.id,
            node.tenant,
            changes=", ".join(f"{change} {generation}" for change, generation in changes),
            standing=changed.standing,
        )

    # Fabric sends.

    async def _send_for_unlisted(self, known: set[NodeId], counted: _Counted, *, dry_run: bool) -> None:
        """Send the commands for the nodes that Breakwater has no record of."""
        after = ""
        while rows := await self.nodes.page("", "", after, PAGE_NODES):
            for row in rows:
                if row.id not in known:
                    counted.nodes += 1
                    entry = NodeGenerations(row.id, row.tenant, 0)
                    await self._send(row.id, entry, counted, dry_run=dry_run)
            after = rows[-1].id

    async def _send(self, node_id: NodeId, entry: NodeGenerations, counted: _Counted, *, dry_run: bool) -> None:
        """Send the commands that Breakwater has no record of."""
        node = await self.nodes.find(node_id)
        if node is None:
            return
        if node.closed_up_to > entry.closed_up_to:
            await self._order(node, node.closed_up_to, "close-up-to", counted, dry_run=dry_run)
        for generation in await self.nodes.generations(node_id):
            number = generation.number
            if number <= max(node.closed_up_to, entry.closed_up_to) or number in entry.closed:
                continue
            if generation.state == "closed":
                await self._order(node, number, "close", counted, dry_run=dry_run)
            elif number not in entry.opened:
                await self._order(node, number, "open", counted, dry_run=dry_run)

    async def _order(self, node: NodeRow, number: int, order: Order, counted: _Counted, *, dry_run: bool) -> None:
        """Send one command. A refusal is counted, and does not stop the comparison. Raises IssuerUnavailable."""
        refused = False
        try:
            if dry_run:
                pass
            elif order == "close-up-to":
                await self.issuer.close_generations(node.tenant, node.id, number)
            elif order == "close":
                await self.issuer.close_generation(node.tenant, node.id, number)
            else:
                await self.issuer.open_generation(node.tenant, node.id, number)
        except IssuerRefused:
            refused = True
        counted.send(node, number, order, refused=refused)


_LAST = "~"
"""A cursor after every node's id. The page is empty, and says when Breakwater's database was restored."""


def waits_at_start(epoch: int) -> Pending:
    """The state at the start of a process. A cloud that was never restored serves nodes at once."""
    return Pending(waits=epoch > FIRST_EPOCH)


def _changes(node: NodeRow, entry: NodeGenerations) -> list[tuple[Repair, int]]:
    """What Breakwater's record changes in a node's row, each with the number of the generation.

    Fabric closes a generation before Breakwater does. So a difference means that Fabric's database is an older one.
    """
    changes: list[tuple[Repair, int]] = []
    newest = max(entry.opened, default=0)
    if newest > node.last_generation:
        changes.append(("later", newest))
    if entry.closed_up_to <= node.closed_up_to:
        return changes
    all_closed = newest <= entry.closed_up_to and entry.closed_up_to >= node.last_generation
    was_confirmed = node.current_generation > node.closed_up_to
    revoked = all_closed and was_confirmed and node.standing in ("active", "suspended")
    changes.append(("revoked" if revoked else "closed", entry.closed_up_to))
    return changes
