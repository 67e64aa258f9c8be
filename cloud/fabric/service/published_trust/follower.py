"""Background task: follows the published trust in the database, once a second, so every replica does without a restart.

In the same beat it stores what nodes reported of their trust, and wakes the nodes that an order to renew is for. After
a restart the rows say the same.
"""

import logging
from collections.abc import Awaitable, Callable

from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.store.installation import InstallationStore, sessions_until
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.checking import hashes_of
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.tuf.targets import TargetsError, read_content
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.fabric.trust")

BEAT_SECONDS = 1.0

TrustChanged = Callable[[], Awaitable[None]]
"""Called after another bundle became current: the TLS contexts are replaced there."""


class Follower:
    """Changes the current trust to what is published."""

    def __init__(
        self,
        *,
        current_trust: CurrentTrust,
        installation: InstallationStore,
        repository: RepositoryStore,
        renewal_orders: RenewalOrders,
        trust_reports: TrustReports,
        trust_changed: TrustChanged,
    ) -> None:
        self._current_trust = current_trust
        self._installation = installation
        self._repository = repository
        self._renewal_orders = renewal_orders
        self._trust_reports = trust_reports
        self._trust_changed = trust_changed
        self._owed = False

    async def run(self, stopping: Stopping) -> None:
        """The background task, until the process goes down."""
        while not await stopping.sleep(BEAT_SECONDS):
            await self.run_once()
        await self._try("adoption", self._trust_reports.store)

    async def run_once(self) -> None:
        """One beat: look first, so that what nodes reported is compared with the newest version."""
        await self._try("look", self.look)
        await self._try("adoption", self._trust_reports.store)
        await self._try("wake", self._renewal_orders.wake_due)

    async def look(self) -> bool:
        """Read what is published and ordered now; whether the bundle is another one. Raises TargetsError."""
        current_trust, files = self._current_trust, self._repository
        current_trust.order = await self._installation.renewal_order()
        stored = sessions_until(await self._installation.read_all())
        for key_id, until in stored.items():
            current_trust.sessions_until[key_id] = max(until, current_trust.sessions_until.get(key_id, until))
        if await files.newest("targets") == current_trust.version:
            if self._owed:
                await self._announce()
            return False
        targets = await files.latest("targets")
        if targets is None:
            raise TargetsError("the repository is empty: `cascade init` has not been here")
        found = {name: await files.target(name, sha256) for name, sha256 in hashes_of(targets.data).items()}
        content = read_content({name: data for name, data in found.items() if data is not None})
        if content.bundle.trust_domain != current_trust.trust.trust_domain:
            raise TargetsError("the published bundle is of another trust domain")
        current_trust.replace(targets.version, content.bundle)
        await self._announce()
        log.info("works by another trust", extra={"version": targets.version})
        return True

    async def _announce(self) -> None:
        """Owed until it has worked: contexts by the trust before would be kept until the next publication."""
        self._owed = True
        await self._trust_changed()
        self._owed = False

    async def _try(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception as error:
            # Whatever is wrong with one beat, the next must come.
            log.error("background work failed", extra={"work": name}, exc_info=error)
