"""The reader of the walk: it follows the feed while replicas work, and compares what it got with what was committed."""

import asyncio
import time
from collections.abc import Iterable

import msgspec

from cloud.events.feed import ChangeFeed
from cloud.events.snapshot import Snapshots
from cloud.storage import ServiceEngine, Statement
from tests.system.support.events_walk.producing import Change, parts_over

WAIT_SECONDS = 0.02
"""Time between two looks of the reader, which has no doorbell. The measured delays are longer by up to as much."""
QUIET_SECONDS = 8.0
"""The feed is at its end when nothing more has come for so long: longer than any stall that the walk allows."""
_ROWS = Statement("SELECT id FROM audit WHERE action = 'thing.change' LIMIT 10000000")


class Seen(msgspec.Struct, frozen=True):
    """An event as the reader got it, and when."""

    position: int
    subject: str
    sequence: int
    row: str
    at: float


class Found(msgspec.Struct, frozen=True):
    """What the walk has found: how many events, the delays from commit to reader in seconds, and what is wrong."""

    events: int
    median: float
    longest: float
    wrong: tuple[str, ...]


class Reader:
    """A reader of the feed over an engine of its own."""

    def __init__(self, engine: ServiceEngine) -> None:
        parts = parts_over(engine)
        self._engine = engine
        self._feed: ChangeFeed = parts.change_feed
        self._sequencer = parts.sequencer
        self._snapshots: Snapshots = parts.snapshots
        self._cursor = ""
        self.seen: list[Seen] = []

    async def follow(self, done: asyncio.Event) -> None:
        """Read until the writers are done and nothing more comes."""
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        while not done.is_set() or loop.time() - quiet_since < QUIET_SECONDS:
            changes = await self._feed.after(self._cursor, WAIT_SECONDS)
            self._cursor = changes.cursor
            now = time.time()
            for event in changes.events:
                row = msgspec.json.decode(event.data, type=Change).row
                self.seen.append(Seen(event.position, event.subject, event.sequence, row, now))
            if changes.events or not done.is_set():
                quiet_since = loop.time()
            if done.is_set():
                await self._sequencer.run_once()  # a process that was killed last leaves events to the next one
                if await self._has_all():
                    return

    async def _has_all(self) -> bool:
        return len(self.seen) >= len(await self._engine.fetch(_ROWS))

    async def check(self, answered: Iterable[str]) -> Found:
        """Compare with the rows, and with the lines `ROW TIME` of the writers that had their commits confirmed."""
        wrong: list[str] = []
        rows = {str(row["id"]) for row in await self._engine.fetch(_ROWS)}
        events = [seen.row for seen in self.seen]
        confirmed = dict(line.split() for line in answered)
        if set(events) != rows or len(events) != len(rows):
            wrong.append(f"{len(rows)} changes and {len(events)} events: {len(rows ^ set(events))} differ")
        if lost := set(confirmed) - set(events):
            wrong.append(f"{len(lost)} confirmed changes have no event")
        if [seen.position for seen in self.seen] != list(range(1, len(self.seen) + 1)):
            wrong.append("the positions have gaps or are not in order")
        latest: dict[str, Seen] = {}
        for seen in self.seen:
            before = latest[seen.subject].sequence if seen.subject in latest else 0
            if seen.sequence != before + 1:
                wrong.append(f"{seen.subject}: {seen.sequence} came after {before}")
            latest[seen.subject] = seen
        wrong += await self._check_snapshot(latest)
        delays = sorted(seen.at - float(confirmed[seen.row]) for seen in self.seen if seen.row in confirmed)
        return Found(len(events), delays[len(delays) // 2], delays[-1], tuple(wrong[:5]))

    async def _check_snapshot(self, latest: dict[str, Seen]) -> list[str]:
        after, found = "", dict[str, str]()
        while True:
            page = await self._snapshots.page(after, 100)
            found |= {event.subject: msgspec.json.decode(event.data, type=Change).row for event in page.events}
            after = page.next
            if not after:
                break
        wanted = {subject: seen.row for subject, seen in latest.items()}
        return [] if found == wanted else [f"the snapshot has {len(found)} objects, and the feed {len(wanted)}"]
