"""Background task: reads the published trust from the database, and makes it the current trust.

It reads after each publication by this process, and once a second for publications by other processes. So every
replica uses a new publication without a restart. In the same step the task stores the trust versions that nodes
reported, and wakes the next nodes of a renewal order. After a restart it continues from the rows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cloud.fabric.service.published_trust.renewal_orders import RenewalOrders
from cloud.fabric.service.published_trust.trust_reports import TrustReports
from cloud.fabric.store.installation import InstallationStore, sessions_until
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.checking import hashes_of
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.tuf.targets import TargetsError, read_content
from cloud.storage.errors import DatabaseBusy, DatabaseUnavailable, TransactionLost
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.fabric.trust")

STEP_SECONDS = 1.0
"""Other replicas publish into the same database, and no event of theirs reaches this process."""

TrustChanged = Callable[[], Awaitable[None]]
"""Called after a new bundle became current. It replaces the TLS contexts."""


class Follower:
    """Replaces the current trust by the published trust, when that has changed.

    `woken` is set after this process committed a publication.
    """

    def __init__(
        self,
        *,
        woken: asyncio.Event,
        current_trust: CurrentTrust,
        installation: InstallationStore,
        repository: RepositoryStore,
        renewal_orders: RenewalOrders,
        trust_reports: TrustReports,
        trust_changed: TrustChanged,
    ) -> None:
        self._woken = woken
        self._current_trust = current_trust
        self._installation = installation
        self._repository = repository
        self._renewal_orders = renewal_orders
        self._trust_reports = trust_reports
        self._trust_changed = trust_changed
        self._contexts_outdated = False
        self.trouble = ""
        """Why the last step could not read the published trust. Empty if it could."""

    async def run(self, stopping: Stopping) -> None:
        """Run until the process goes down. Store the reports of nodes once more at the end."""
        while not await stopping.first(self._woken, STEP_SECONDS):
            self._woken.clear()
            await self.run_once()
        await self._try("adoption", self._trust_reports.store)

    async def run_once(self) -> None:
        """One step. Updates the current trust first, so reports of nodes are compared with the newest version."""
        await self._try("trust", self.update)
        await self._try("adoption", self._trust_reports.store)
        await self._try("wake", self._renewal_orders.wake_due)

    async def update(self) -> bool:
        """Read the published trust, the renewal order and the session ends. True if there is a new bundle.

        Raises TargetsError if the repository is empty, or its newest targets cannot be used.
        """
        current_trust, files = self._current_trust, self._repository
        current_trust.order = await self._installation.renewal_order()
        stored = sessions_until(await self._installation.read_all())
        for key_id, until in stored.items():
            current_trust.sessions_until[key_id] = max(until, current_trust.sessions_until.get(key_id, until))
        if await files.newest("targets") == current_trust.version:
            if self._contexts_outdated:
                await self._announce()
            return False
        targets = await files.latest("targets")
        if targets is None:
            raise TargetsError("the repository is empty: `cascade init` did not make this database")
        found = {name: await files.target(name, sha256) for name, sha256 in hashes_of(targets.data).items()}
        content = read_content({name: data for name, data in found.items() if data is not None})
        if content.bundle.trust_domain != current_trust.trust.trust_domain:
            raise TargetsError("the published bundle is of another trust domain")
        current_trust.replace(targets.version, content.bundle)
        await self._announce()
        log.info("uses a new published trust", extra={"version": targets.version})
        return True

    async def _announce(self) -> None:
        """Have the TLS contexts replaced. The next step repeats this if it fails."""
        self._contexts_outdated = True
        await self._trust_changed()
        self._contexts_outdated = False

    async def _try(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        trouble = ""
        try:
            await work()
        except (DatabaseBusy, DatabaseUnavailable, TransactionLost) as error:
            trouble = str(error)
            log.error("background work postponed", extra={"work": name, "error": trouble})
        except Exception as error:
            # A failed step must not end the task. The next step tries again.
            trouble = str(error)
            log.error("background work failed", extra={"work": name}, exc_info=error)
        if name == "trust":
            self.trouble = trouble
