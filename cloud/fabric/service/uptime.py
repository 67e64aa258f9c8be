"""Use case: Fabric records that it runs, so that an outage of Fabric is not taken for the silence of a node.

Each replica stores the time of its beats. If the last beat of all replicas is older than a bound, no node could make
a contact meanwhile. Then every silence that a recovery case waits for begins again. An outage before Fabric, such as that
of a network, is no outage here: Fabric does not see it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from cloud.fabric.licensing.recovery import silence
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.installation import InstallationStore
from cloud.fabric.store.keys import node_key, recovery_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import RecoveryCaseRow
from cloud.fabric.store.tenants import TenantStore

BEAT_SECONDS = 30.0
OUTAGE = timedelta(minutes=2)
"""Time without a beat that counts as an outage: a restart, or a busy database, takes less."""
SLOTS = 4
"""Heartbeat slots within which a node is back after an outage: its pauses grow while the cloud does not answer."""
ROWS_MAX = 100


@dataclass(kw_only=True)
class Uptime:
    """The beats of Fabric, and what an outage changes. One for each replica."""

    now: Now
    transaction: Transaction
    installation: InstallationStore
    nodes: NodeStore
    tenants: TenantStore
    cases: RecoveryCaseStore
    _last: datetime | None = None
    """The last beat of this replica."""

    async def beat(self) -> None:
        """Store that Fabric runs. After an outage every silence begins again."""
        if not self._covers(await self.installation.beat()):
            after = ""
            while cases := await self.cases.silent(after, ROWS_MAX):
                for case in cases:
                    await self._begin_again(case)
                after = cases[-1].id
        now = self.now()
        await self.installation.set_beat(now)
        self._last = now

    def end_of(self, silent_until: datetime) -> datetime:
        """The end of a silence. It is later before the first beat of this replica, which finds an outage."""
        now = self.now()
        return silent_until if now < silent_until or self._covers(self._last) else now + OUTAGE

    def _covers(self, beat: datetime | None) -> bool:
        """Whether Fabric has run since a beat. A beat in the future is of a clock that was wrong, and proves nothing."""
        return beat is not None and abs(self.now() - beat) <= OUTAGE

    async def _begin_again(self, case: RecoveryCaseRow) -> None:
        tenant = await self.tenants.find(case.tenant)
        async with self.transaction(recovery_key(case.tenant), node_key(case.node)):
            fresh, node = await self.cases.find(case.id), await self.nodes.find(case.node)
            if fresh is None or fresh.silent_until is None or node is None or tenant is None:
                return
            slot = (node.intervals.heartbeat_seconds or 0) if node.intervals is not None else 0
            ends = self.now() + silence(tenant.recovery.silence_minutes, SLOTS * slot)
            await self.cases.update(msgspec.structs.replace(fresh, silent_until=max(fresh.silent_until, ends)))
