"""The background work of Fabric: whatever a request began and did not end is found in the rows and driven on.

It tells Breakwater of closed generations until that is done, ends activations that nobody confirmed, frees the seats
of revoked nodes, writes down what sessions showed, and keeps the TUF repository's online roles fresh. It remembers
nothing that matters: after a restart the rows say the same.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from cloud.fabric.errors import IssuerRefused, IssuerUnavailable
from cloud.fabric.service.context import SYSTEM, Core
from cloud.fabric.service.nodes import lapse, renewal
from cloud.tasks.back_off import BackOff
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point

log = logging.getLogger("cascade.fabric.driver")

IDLE_SECONDS = 5.0
"""Between looks at the rows when nothing kicks; each look is a handful of indexed queries."""
PAGE_ITEMS = 100
SEEN_SECONDS = 30.0
HOUSEKEEPING_SECONDS = 3600.0
BACK_OFF_SECONDS_FIRST = 0.5
BACK_OFF_SECONDS_MAX = 10.0
"""After a failed call to Breakwater. Short, since one Fabric asks one Breakwater."""
FORGET_CHALLENGES_AFTER = timedelta(days=1)
FORGET_RENEWALS_AFTER = timedelta(days=7)
"""Longer than the day for which they are counted; a node that asks for its stored answer later begins anew."""

Chore = Callable[[], Awaitable[object]]


class Driver:
    """One loop. `chores` are done every so many seconds beside it: (name, seconds, what)."""

    def __init__(self, core: Core, kicked: asyncio.Event, chores: tuple[tuple[str, float, Chore], ...] = ()) -> None:
        self._core = core
        self._kicked = kicked
        self._back_off = BackOff(BACK_OFF_SECONDS_FIRST, BACK_OFF_SECONDS_MAX, core.entropy)
        self._chores = (("seen", SEEN_SECONDS, self.write_seen), ("purge", HOUSEKEEPING_SECONDS, self._purge), *chores)
        self._due = dict.fromkeys((name for name, _, _ in self._chores), 0.0)

    async def run(self, stopping: Stopping) -> None:
        """The background task, until the process goes down."""
        while True:
            self._kicked.clear()
            pause = await self.turn(asyncio.get_running_loop().time())
            if await stopping.first(self._kicked, pause):
                await self._try("seen", self.write_seen)
                return

    async def turn(self, at: float) -> float:
        """Look once at everything; returns the seconds until the next look. `at` is a monotonic time."""
        await self._try("lapse", self.lapse_overdue)
        if at >= self._back_off.ready_at:
            await self._try("close", self.close_at_issuer)
        await self._try("lapsed", self.finish_lapsing)
        await self._try("rekeyed", self.supersede_keys)
        await self._try("seats", self.free_seats)
        for name, seconds, chore in self._chores:
            if at >= self._due[name]:
                self._due[name] = at + seconds
                await self._try(name, chore)
        wait = self._back_off.ready_at - asyncio.get_running_loop().time()
        return min(IDLE_SECONDS, wait) if wait > 0 else IDLE_SECONDS

    async def _try(self, name: str, work: Chore) -> None:
        try:
            await work()
        except (IssuerUnavailable, IssuerRefused) as error:
            log.warning("put off", extra={"work": name, "error": str(error)})
        except Exception as error:
            log.error("background work failed", extra={"work": name}, exc_info=error)

    async def close_at_issuer(self) -> None:
        """Tell Breakwater of every closed generation.

        Raises IssuerUnavailable at the first call that fails; IssuerRefused at the end, for one node holds up no other.
        """
        after, refused = "", None
        while rows := await self._core.stores.nodes.closing(after, PAGE_ITEMS):
            for node in rows:
                try:
                    await self._core.issuer.close_generations(node.tenant, node.id, node.closed_up_to)
                except IssuerRefused as error:
                    refused = error
                    continue
                except IssuerUnavailable:
                    self._back_off.failed(asyncio.get_running_loop().time())
                    raise
                self._back_off.worked()
                with fault_point("fabric.generation.closed"):
                    async with self._core.stores.transaction():
                        await self._core.stores.nodes.set_closed_at_issuer(node.id, node.closed_up_to)
                        await self._core.audit(
                            SYSTEM, "generation.closed_at_issuer", node.id, node.tenant, up_to=node.closed_up_to
                        )
            after = rows[-1].id
        if refused is not None:
            self._back_off.failed(asyncio.get_running_loop().time())
            raise refused

    async def lapse_overdue(self) -> None:
        """Begin to end what was not confirmed in time."""
        for row in await self._core.stores.activations.overdue(self._core.now(), PAGE_ITEMS):
            await lapse.begin(self._core, row)

    async def finish_lapsing(self) -> None:
        """End what lapses, once the issuer knows. Raises as `close_at_issuer`."""
        refused = None
        for row in await self._core.stores.activations.lapsing(PAGE_ITEMS):
            try:
                await lapse.finish(self._core, row)
            except IssuerRefused as error:
                refused = error
        if refused is not None:
            raise refused

    async def supersede_keys(self) -> None:
        """Have the certificates of changed keys revoked. Raises as `close_at_issuer`."""
        refused = None
        for row in await self._core.stores.renewals.rekeyed(PAGE_ITEMS):
            try:
                await renewal.supersede(self._core, row)
            except IssuerRefused as error:
                refused = error
        if refused is not None:
            raise refused

    async def free_seats(self) -> None:
        """Give back the seats of revoked nodes whose last lease has terminated."""
        now = self._core.now()
        for node in await self._core.stores.nodes.seats_due(now, PAGE_ITEMS):
            await lapse.free_seat_of_revoked(self._core, node, now)

    async def write_seen(self) -> None:
        """Write down what sessions showed, all of it in one transaction."""
        seen = dict(self._core.seen)
        if not seen:
            return
        with fault_point("fabric.session.seen"):
            async with self._core.stores.transaction():
                for key, entry in seen.items():
                    await self._core.stores.nodes.set_seen(key, entry)
        for key, entry in seen.items():
            if self._core.seen.get(key) is entry:
                del self._core.seen[key]

    async def _purge(self) -> None:
        with fault_point("fabric.activation.purge"):
            await self._core.stores.activations.purge(self._core.now() - FORGET_CHALLENGES_AFTER)
        with fault_point("fabric.renewal.purge"):
            await self._core.stores.renewals.purge(self._core.now() - FORGET_RENEWALS_AFTER)
