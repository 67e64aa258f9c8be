"""Use case: operators order device certificates renewed, and the nodes are woken for it one after the other."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from cloud.fabric import schemas
from cloud.fabric.errors import Invalid
from cloud.fabric.service import views
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.store.adoption import AdoptionStore
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.tuf.current_trust import CurrentTrust, RenewalOrder
from cloud.fabric.wake import WakeRoom
from cloud.http.guard import Operator

RENEWALS_PER_SECOND = 50
"""How fast an order wakes a fleet unless the operator says otherwise: a fraction of what one issuer signs."""
SPREAD_SECONDS_MAX = 30 * 24 * 3600
TAKES = timedelta(seconds=5)
"""Until every replica has read an order; leases signed before that lack it and are signed again."""
WOKEN_PER_BEAT_MAX = 500


@dataclass(frozen=True, kw_only=True)
class RenewalOrders:
    """Takes orders to renew, and wakes the nodes at their pace."""

    now: Now
    transaction: Transaction
    audit: AuditLog
    installation: InstallationStore
    nodes: AdoptionStore
    adoption: Adoption
    current_trust: CurrentTrust
    wake_room: WakeRoom

    async def give(self, operator: Operator, body: schemas.RenewDevices) -> schemas.RenewalOrder:
        """Order that device certificates made before a time are renewed. A later order replaces an earlier one.

        Raises Invalid.
        """
        check_text("reason", body.reason)
        now = self.now()
        after = body.after or now
        if after.tzinfo is None:
            raise Invalid("after: a time with its zone")
        counted = await self.adoption.count(self.current_trust.version)
        spread = counted.nodes // RENEWALS_PER_SECOND if body.spread_seconds is None else body.spread_seconds
        if not 0 <= spread <= SPREAD_SECONDS_MAX:
            raise Invalid(f"spread_seconds: 0 to {SPREAD_SECONDS_MAX}")
        order = RenewalOrder(
            after=after.astimezone(UTC),
            reason=body.reason,
            set_at=now,
            starts_at=max(now, after.astimezone(UTC)) + TAKES,
            spread_seconds=spread,
            nodes=counted.nodes,
        )
        async with self.transaction():
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
        """Wake as many nodes as are due by the pace of the order; how many those were."""
        order = self.current_trust.order
        if order is None or order.done or self.now() < order.starts_at:
            return 0
        wanted = _due(order, self.now())
        if not wanted:
            return 0
        async with self.transaction():
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
    """Another replica has woken these, or the order was replaced: nothing of this beat is kept."""


def _due(order: RenewalOrder, now: datetime) -> int:
    """How many more nodes should have been woken by now; beyond the expected end one step at a time, to its true end."""
    passed = (now - order.starts_at).total_seconds()
    if passed >= order.spread_seconds:
        return WOKEN_PER_BEAT_MAX
    wanted = int(order.nodes * passed / order.spread_seconds) - order.woken
    # Below zero when the clock went back, or another replica's is ahead of ours.
    return max(0, min(wanted, WOKEN_PER_BEAT_MAX))
