"""Background task: finishes work that a request began and left unfinished. The rows say what is unfinished.

The task asks Breakwater to close the generations that Fabric has closed. It ends activations that were not confirmed
or approved in time. It asks Breakwater to revoke the certificates of replaced keys. It frees the seats of revoked nodes.
It stores what sessions reported, deletes old rows, and signs the online roles of the TUF repository before they expire.
After a restart the task finds the same work in the rows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from cloud.fabric.entropy import Entropy
from cloud.fabric.errors import IssuerRefused, IssuerUnavailable
from cloud.fabric.service.activations.with_tpm import Activations
from cloud.fabric.service.nodes.closing import Closings
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.seen import SeenSessions
from cloud.fabric.service.renewals.renewal import Renewals
from cloud.storage.errors import DatabaseBusy, DatabaseUnavailable, TransactionLost
from cloud.tasks.back_off import BackOff
from cloud.tasks.stopping import Stopping

log = logging.getLogger("cascade.fabric.background")

IDLE_SECONDS = 5.0
"""Longest pause between two passes over the rows. A pass costs a handful of indexed queries."""
SEEN_SECONDS = 30.0
AUDIT_SECONDS = 5.0
"""Interval between two steps of the walk over old audit entries: 500 entries, eight million a day."""
HOUSEKEEPING_SECONDS = 3600.0
BACK_OFF_SECONDS_FIRST = 0.5
BACK_OFF_SECONDS_MAX = 10.0
"""Pauses after a failed call to Breakwater. They are short because one Fabric calls one Breakwater."""

Work = Callable[[], Awaitable[object]]


class Periodic(msgspec.Struct, frozen=True):
    """Work that runs at the start and then every `seconds`."""

    name: str
    seconds: float
    work: Work


class Background:
    """One loop over the rows. A use case sets `woken` after a commit that leaves work for this loop.

    `further` is periodic work on other subjects.
    """

    def __init__(
        self,
        *,
        woken: asyncio.Event,
        entropy: Entropy,
        activations: Activations,
        closings: Closings,
        lapses: Lapses,
        renewals: Renewals,
        seen: SeenSessions,
        further: tuple[Periodic, ...],
    ) -> None:
        self._woken = woken
        self._back_off = BackOff(BACK_OFF_SECONDS_FIRST, BACK_OFF_SECONDS_MAX, entropy)
        self._activations = activations
        self._closings = closings
        self._lapses = lapses
        self._renewals = renewals
        self._seen = seen
        self._periodic = (
            Periodic("seen", SEEN_SECONDS, seen.store),
            Periodic("purge", HOUSEKEEPING_SECONDS, self._forget_old),
            *further,
        )
        self._due = dict.fromkeys((periodic.name for periodic in self._periodic), 0.0)

    async def run(self, stopping: Stopping) -> None:
        """Run until the process goes down. Store the reports of sessions once more at the end."""
        while True:
            self._woken.clear()
            pause = await self.run_once(asyncio.get_running_loop().time())
            if await stopping.first(self._woken, pause):
                await self._try("seen", self._seen.store)
                return

    async def run_once(self, at: float) -> float:
        """Do all work that is due. Returns the seconds until the next pass. `at` is the monotonic time in seconds."""
        await self._try("lapse", self._lapses.begin_overdue)
        if at >= self._back_off.ready_at:
            await self._try("close", self._close_at_issuer)
        await self._try("lapsed", self._lapses.finish_all)
        await self._try("rekeyed", self._renewals.supersede_keys)
        await self._try("seats", self._lapses.free_seats)
        for periodic in self._periodic:
            if at >= self._due[periodic.name]:
                self._due[periodic.name] = at + periodic.seconds
                await self._try(periodic.name, periodic.work)
        wait = self._back_off.ready_at - asyncio.get_running_loop().time()
        return min(IDLE_SECONDS, wait) if wait > 0 else IDLE_SECONDS

    async def _try(self, name: str, work: Work) -> None:
        try:
            await work()
        except (IssuerUnavailable, IssuerRefused) as error:
            log.warning("background work postponed", extra={"work": name, "error": str(error)})
        except (DatabaseBusy, DatabaseUnavailable, TransactionLost) as error:
            # No bug: the disk is full, or the server is away. The next pass tries again.
            log.error("background work postponed", extra={"work": name, "error": str(error)})
        except Exception as error:
            # A failure of one piece of work must not stop the others. The next pass tries again.
            log.error("background work failed", extra={"work": name}, exc_info=error)

    async def _close_at_issuer(self) -> None:
        await self._closings.close_at_issuer(self._back_off)

    async def _forget_old(self) -> None:
        await self._activations.forget_old()
        await self._renewals.forget_old()
