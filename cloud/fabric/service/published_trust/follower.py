"""Fabric follows its own published trust, once a second, from its database: so every replica does, without a restart.

Beside it, in the same beat, what nodes told of their trust is written down, and an order to renew wakes its nodes one
after the other. Nothing here is remembered that matters: after a restart the rows say the same.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
from tuf.api.metadata import Root, Targets

from cloud.fabric.service.context import Core
from cloud.fabric.service.published_trust import adoption
from cloud.fabric.store import Stores
from cloud.fabric.store.installation import sessions_until
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.checking import hashes_of, read_metadata
from cloud.fabric.tuf.current_trust import Belief, RenewalOrder
from cloud.fabric.tuf.targets import TargetsError, read_content
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.fabric.trust")

BEAT_SECONDS = 1.0
WOKEN_PER_BEAT_MAX = 500
EXPIRY_WARNING = timedelta(days=60)
"""How long before their end a root or the targets are warned of: to find the holders of an offline key takes weeks."""

Changed = Callable[[], Awaitable[None]]


class Follower:
    """The one that changes a `Belief`. `changed` runs after each other bundle: TLS contexts are made anew there."""

    def __init__(self, belief: Belief, stores: Stores, changed: Changed) -> None:
        self._belief = belief
        self._stores = stores
        self._changed = changed
        self._owed = False

    async def run(self, core: Core, stopping: Stopping) -> None:
        """The background task, until the process goes down."""
        while not await stopping.sleep(BEAT_SECONDS):
            await self.turn(core)
        await self._try("adoption", lambda: adoption.write_told(core))

    async def turn(self, core: Core) -> None:
        """One beat: look first, so that what nodes told is held against the newest version."""
        await self._try("look", self.look)
        await self._try("adoption", lambda: adoption.write_told(core))
        await self._try("wake", lambda: wake_due(core))

    async def look(self) -> bool:
        """Read what is published and ordered now; whether the bundle is another one. Raises TargetsError."""
        belief, files = self._belief, self._stores.repository
        belief.order = await self._stores.installation.renewal_order()
        stored = sessions_until(await self._stores.installation.read_all())
        for key_id, until in stored.items():
            belief.sessions_until[key_id] = max(until, belief.sessions_until.get(key_id, until))
        if await files.newest("targets") == belief.version:
            if self._owed:
                await self._tell()
            return False
        targets = await files.latest("targets")
        if targets is None:
            raise TargetsError("the repository is empty: `cascade init` has not been here")
        found = {name: await files.target(name, sha256) for name, sha256 in hashes_of(targets.data).items()}
        content = read_content({name: data for name, data in found.items() if data is not None})
        if content.bundle.trust_domain != belief.trust.trust_domain:
            raise TargetsError("the published bundle is of another trust domain")
        belief.take(targets.version, content.bundle)
        await self._tell()
        log.info("works by another trust", extra={"version": targets.version})
        return True

    async def _tell(self) -> None:
        """Owed until it has worked: contexts by the trust before would be kept until the next publication."""
        self._owed = True
        await self._changed()
        self._owed = False

    async def _try(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception as error:
            # Whatever is wrong with one beat, the next must come.
            log.error("background work failed", extra={"work": name}, exc_info=error)


async def wake_due(core: Core) -> int:
    """Wake as many nodes as are due by the pace of the order; how many those were."""
    order = core.belief.order
    if order is None or order.done or core.now() < order.starts_at:
        return 0
    wanted = _due(order, core.now())
    if not wanted:
        return 0
    async with core.stores.transaction():
        nodes = await core.stores.adoption.wake(order.woken_up_to, wanted)
        advanced = msgspec.structs.replace(
            order,
            woken=order.woken + len(nodes),
            woken_up_to=nodes[-1] if nodes else order.woken_up_to,
            done=len(nodes) < wanted,
        )
        if not await core.stores.installation.advance_renewal_order(order, advanced):
            raise _Overtaken
    core.belief.order = advanced
    for node in nodes:
        core.wake.wake(node)
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


async def warn_of_expiry(files: RepositoryStore, now: datetime) -> tuple[str, ...]:
    """Log what of the offline roles ends within `EXPIRY_WARNING`; the roles."""
    found = []
    root, targets = await files.latest("root"), await files.latest("targets")
    ends = {} if root is None else {"root": read_metadata(root.data, Root).signed.expires}
    if targets is not None:
        ends["targets"] = read_metadata(targets.data, Targets).signed.expires
    for role, expires_at in ends.items():
        if expires_at - now < EXPIRY_WARNING:
            found.append(role)
            log.warning(
                "published trust ends soon: sign it again with `cascade trust sign`",
                extra={"role": role, "expires_at": expires_at, "days_left": (expires_at - now).days},
            )
    return tuple(found)
