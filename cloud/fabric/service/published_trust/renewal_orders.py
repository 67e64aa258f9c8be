"""Use case: operators order that nodes renew their device certificates. The nodes are woken one after the other."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.fabric import schemas
from cloud.fabric.bodies.published_trust import SPREAD_SECONDS_MAX
from cloud.fabric.errors import Invalid
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text, check_time
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.store.adoption import AdoptionStore
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.keys import ORDER, REPORTS_PATIENCE_SECONDS
from cloud.fabric.tuf.current_trust import CurrentTrust, RenewalOrder
from cloud.fabric.wake import WakeRoom
from cloud.http.guard import Operator

RENEWALS_PER_SECOND = 50
"""How many nodes an order wakes in a second, unless the operator sets the spread. One issuer can sign many more."""
START_DELAY = timedelta(seconds=5)
"""Time until every replica has read an order. Leases that were signed before do not carry it and are signed again."""
WOKEN_PER_STEP_MAX = 500


@dataclass(frozen=True, kw_only=True)
class RenewalOrders:
    """Takes renewal orders, and wakes the nodes at the pace of the order."""

    now: Now
    transaction: Transaction
    acting: Acting
    audit: AuditLog
    installation: InstallationStore
    nodes: AdoptionStore
    adoption: Adoption
    current_trust: CurrentTrust
    wake_room: WakeRoom

    async def give(self, operator: Operator, body: schemas.RenewDevices) -> schemas.RenewalOrder:
        """Order that device certificates made before `body.after` are renewed. The new order replaces an earlier one.

        Raises Invalid.
        """
        check_text("reason", body.reason)
        now = self.now()
        after = now if body.after is None else check_time("after", body.after)
        counted = await self.adoption.count(self.current_trust.version)
        spread = counted.nodes // RENEWALS_PER_SECOND if body.spread_seconds is None else body.spread_seconds
        if not 0 <= spread <= SPREAD_SECONDS_MAX:
            raise Invalid(f"spread_seconds: 0 to {SPREAD_SECONDS_MAX}")
        order = RenewalOrder(
            after=after,
            reason=body.reason,
            set_at=now,
            starts_at=max(now, after) + START_DELAY,
            spread_seconds=spread,
            nodes=counted.nodes,
        )
        async with self.acting.transaction(operator, ORDER):
            await self.installation.set_renewal_order(order)
            await self.audit.write(
                operator_actor(operator),
                "trust.renew_devices",
                "renew_devices",
                "",
                reason=body.reason,
                after=after.isoformat(),
                spread_seconds=spread,
                nodes=counted.nodes,
            )
        self.current_trust.order = order
        return views.renewal_order(order)

    async def wake_due(self) -> int:
        """Wake the nodes that are due by the pace of the order. Returns how many."""
        order = self.current_trust.order
        if order is None or order.done or self.now() < order.starts_at:
            return 0
        wanted = _due(order, self.now())
        if not wanted:
            return 0
        async with self.transaction(ORDER, patience=REPORTS_PATIENCE_SECONDS):
            nodes = await self.nodes.wake(order.woken_up_to, wanted)
            advanced = msgspec.structs.replace(
                order,
                woken=order.woken + len(nodes),
                woken_up_to=nodes[-1] if nodes else order.woken_up_to,
                done=len(nodes) < wanted,
            )
            if not await self.installation.advance_renewal_order(order, advanced):
                raise _Overtaken
        self.current_trust.order = advanced
        for node in nodes:
            self.wake_room.wake(node)
            await asyncio.sleep(0)
        return len(nodes)


class _Overtaken(Exception):
    """Another replica has woken these nodes, or the order was replaced. The transaction of this step is rolled back."""


def _due(order: RenewalOrder, now: datetime) -> int:
    """How many nodes to wake in this step.

    `order.nodes` is an estimate. After `spread_seconds` each step wakes WOKEN_PER_STEP_MAX nodes until none is left.
    """
    passed = (now - order.starts_at).total_seconds()
    if passed >= order.spread_seconds:
        return WOKEN_PER_STEP_MAX
    wanted = int(order.nodes * passed / order.spread_seconds) - order.woken
    # `wanted` is negative if this clock was set back, or is behind the clock of another replica.
    return max(0, min(wanted, WOKEN_PER_STEP_MAX))
