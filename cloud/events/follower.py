"""Background task: follow the events of a producer, and apply them to the own database.

Each process of a service polls the producer's feed. The cursor in the database is shared by all of them, and is stored in
the transaction of the effects. So each event takes effect once, whichever process got it first. Rules:

- An event is applied only if its (`epoch`, `sequence`) is higher than that of the newest applied event of its object. So
a replayed older event changes nothing.
- A process hears every event, also one that another process has applied, because it may keep state in memory.
- After a missing position, another epoch of the producer, or a refused cursor, the follower reads the producer's
snapshot, and follows from its cursor. In a new epoch, objects that the snapshot does not have are reported as absent.
- A snapshot that is older than the stored cursor moves no cursor, and makes nothing absent. Of one of the same epoch,
the events of objects that have a newer one are applied all the same. The follower tries again.
- An event that the follower cannot read is counted, logged with a bound, and left out.

The text of an error has no value of an event.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import PATH_CHANGES, PATH_SNAPSHOT, Changes, Event, SnapshotPage
from cloud.events.cursor import Cursor, CursorError, parse_cursor
from cloud.events.encoding import EVENTS_MAX
from cloud.events.received import Broken, Known, Nouns, Unknown, require_following
from cloud.events.store.followed import FollowedStore, key_of
from cloud.mtls.client import CallError, CloudClient, ProblemAnswer
from cloud.storage import ServiceEngine, StorageError
from cloud.tasks.back_off import BackOff
from cloud.tasks.bounded_log import BoundedLog
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point

log = logging.getLogger("cascade.events.follower")

WAIT_SECONDS = 60
"""Seconds of one long poll. It is short enough to notice a connection that broke without a sign."""
ANSWER_SECONDS = 10.0
"""Seconds for the answer, in addition to the wait."""
RETRY_SECONDS_FIRST = 0.25
"""Longest pause after the first failure. Each further failure doubles it. A doorbell cannot shorten it below this."""
RETRY_SECONDS_MAX = 5.0
"""Longest pause after failures; each pause is random up to the limit."""
UNRECORDED = ("type", "foreign")
"""Why an event is not even recorded. Others are, so that their objects are not taken for absent."""
RESETTING = ("cursor_gone", "cursor_foreign")
"""Codes of problems after which the follower reads the snapshot."""


class SnapshotNeeded(Exception):
    """The follower cannot go on from its cursor. The text is the reason."""


class SnapshotTooOld(Exception):
    """The producer's snapshot is older than the cursor of the follower."""


class Effects(Protocol):
    """Port: what a service does with the events of one producer."""

    nouns: Sequence[EventNoun]
    """The nouns that the service reads."""
    ignored: Iterable[str]
    """Nouns that the service knows and leaves out."""
    keys: Sequence[str]
    """The keys of the transactions in which `apply` and `absent` run."""

    def hear(self, event: Event, body: object) -> None:
        """Take an event into memory, before it is stored. Each process gets each event, some again and some older."""

    async def apply(self, event: Event, body: object) -> None:
        """Apply an event in the open transaction. Raises StorageError."""

    async def absent(self, subject: str) -> None:
        """Apply that the producer does not know an object any more, in the open transaction. Raises StorageError."""


class Follower:
    """Follows one producer. `load` and then `run` are called once; `refresh` is one step of `run`."""

    def __init__(
        self,
        engine: ServiceEngine,
        producer: str,
        client: Callable[[], CloudClient],
        effects: Effects,
        *,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.producer = producer
        self._engine = engine
        self._client = client
        self._effects = effects
        self._nouns = Nouns(producer, effects.nouns, effects.ignored)
        self._store = FollowedStore(engine, producer)
        self._back_off = BackOff(RETRY_SECONDS_FIRST, RETRY_SECONDS_MAX, entropy)
        self._said = BoundedLog(log, now)
        self._woken = asyncio.Event()
        self._at: Cursor | None = None
        self._answered_at: float | None = None
        self.head = 0
        """Highest position of the producer, as of its last answer."""
        self.left_out: dict[str, int] = {"type": 0, "version": 0, "body": 0, "foreign": 0}
        """How many events this process could not read, by the reason."""
        self.snapshots = 0
        """How many snapshots this process has read to the end."""
        self.trouble = ""
        """Why the last step failed. Empty if it worked, or before the first step."""

    @property
    def position(self) -> int:
        """The position up to which this process has heard the events; 0 before the first snapshot."""
        return 0 if self._at is None else self._at.position

    @property
    def answer_age_seconds(self) -> float:
        """Seconds since the producer's last answer; -1 before the first."""
        return -1.0 if self._answered_at is None else asyncio.get_running_loop().time() - self._answered_at

    @property
    def is_answered(self) -> bool:
        """Whether the last step worked, so that the producer was there and its certificate valid."""
        return self._answered_at is not None and not self.trouble

    def wake(self) -> None:
        """End a pause after a failure. A doorbell calls it."""
        self._woken.set()

    async def load(self) -> None:
        """Read the stored cursor. Call it before the service reads what its effects have stored, and before `run`.

        An event that another process applies between the two readings is then heard again. Raises StorageError.
        """
        try:
            self._at = await self._store.cursor()
        except CursorError as error:
            self._said.warn("cursor", "the stored cursor is not one of this producer", **self._extra(error))

    async def run(self, stopping: Stopping) -> None:
        """Follow the producer until the process stops; a running poll then ends at once."""
        wait_seconds = 0
        while not stopping.requested:
            try:
                if await stopping.cancels(self.refresh(wait_seconds)):
                    return
            except (CallError, StorageError, Broken, SnapshotNeeded, SnapshotTooOld) as error:
                self._failed("cannot follow the events of a service", error)
            except Exception as error:
                # A fault of one effect must not end the task and the process. The next try repeats the events.
                log.error("a fault in an effect of events", extra={"producer": self.producer}, exc_info=error)
                self.trouble = f"{type(error).__name__}: {error}"
            else:
                wait_seconds = WAIT_SECONDS
                self._back_off.worked()
                self.trouble = ""
                continue
            wait_seconds = 0
            if await self._pauses(stopping):
                return

    async def _pauses(self, stopping: Stopping) -> bool:
        """Wait after a failure. A wake shortens the wait, but not below the first pause, or it could be abused."""
        self._woken.clear()
        pause = self._back_off.failed(asyncio.get_running_loop().time())
        if await stopping.sleep(min(pause, RETRY_SECONDS_FIRST)):
            return True
        left = pause - RETRY_SECONDS_FIRST
        return await stopping.first(self._woken, left) if left > 0 else stopping.requested

    def _failed(self, message: str, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {error}"
        self._said.warn(type(error).__name__, message, **self._extra(error))

    def _extra(self, error: object) -> dict[str, object]:
        return {"producer": self.producer, "reason": str(error)}

    async def refresh(self, wait_seconds: int = 0) -> int:
        """Fetch and apply the next events, or the snapshot. Return how many events were fetched.

        Raises:
            CallError, StorageError: the call or a query failed. The next step tries again.
            SnapshotNeeded, Broken: the follower cannot go on. The next step reads the snapshot.
            SnapshotTooOld: the snapshot is older than the cursor.
        """
        before = self._at
        if before is None:
            return await self._read_snapshot()
        try:
            answer = await self._changes(before, wait_seconds)
            self.head = answer.head
            after = self._parsed(answer.cursor)
            require_following(answer.events, before, after)
            read = self._read(answer.events)
            self._hear(read)
            if answer.events:
                await self._apply(read, before, after)
        except (SnapshotNeeded, Broken):
            self._at = None
            raise
        self._at = after
        return len(answer.events)

    async def _changes(self, before: Cursor, wait_seconds: int) -> Changes:
        path = f"{PATH_CHANGES}?cursor={before}&wait={wait_seconds}"
        try:
            answer = (await self._client().call("GET", path, seconds=wait_seconds + ANSWER_SECONDS)).into(Changes)
        except ProblemAnswer as problem:
            self._answered_at = asyncio.get_running_loop().time()
            if problem.problem.code not in RESETTING:
                raise
            raise SnapshotNeeded(f"the cursor was refused: {problem.problem.code}") from problem
        self._answered_at = asyncio.get_running_loop().time()
        return answer

    def _parsed(self, cursor: str) -> Cursor:
        try:
            return parse_cursor(cursor, self.producer)
        except CursorError as error:
            raise Broken("the answer has no cursor of the producer") from error

    def _read(self, events: Sequence[Event]) -> list[Known | Unknown]:
        """Return the events of the nouns that the service reads, and those that it cannot read."""
        read = [each for event in events if (each := self._nouns.read(event)) is not None]
        for each in read:
            if isinstance(each, Unknown):
                self.left_out[each.why] += 1
                self._said.warn(
                    f"{each.why} {each.event.type}" if each.why != "foreign" else each.why,
                    "left out an event that cannot be read",
                    **self._extra(each.why),
                    event=each.event.id,
                    type=each.event.type,
                )
        return read

    def _hear(self, read: Iterable[Known | Unknown]) -> None:
        for each in read:
            if isinstance(each, Known):
                self._effects.hear(each.event, each.body)

    async def _apply(self, read: Sequence[Known | Unknown], before: Cursor, after: Cursor) -> None:
        """Apply the events that no other process has applied, and move the stored cursor, in one transaction."""
        with fault_point("events.batch.apply"):
            async with self._engine.transaction(key_of(self.producer), *self._effects.keys):
                stored = await self._store.cursor()
                if stored is None or stored.epoch != before.epoch or stored.position < before.position:
                    raise SnapshotNeeded("the stored cursor is not behind the events")
                if stored.position >= after.position:
                    return
                await self._apply_each(each for each in read if each.event.position > stored.position)
                await self._store.set_cursor(after)

    async def _apply_each(self, read: Iterable[Known | Unknown]) -> None:
        for each in read:
            event = each.event
            if isinstance(each, Unknown) and each.why in UNRECORDED:
                continue
            if await self._store.is_new(event.subject, event.epoch, event.sequence) and isinstance(each, Known):
                await self._effects.apply(event, each.body)

    async def _read_snapshot(self) -> int:
        """Apply the snapshot page by page, then tell what is absent, then store its cursor.

        If the process ends in between, the cursor is not stored, so the next process reads the snapshot again.
        """
        stored = await self._stored_cursor()
        first = await self._page("", 1)
        start = self._parsed(first.cursor)
        if stored is not None and start.epoch < stored.epoch:
            raise SnapshotTooOld("the snapshot is of an older epoch than the cursor: nothing of it is applied")
        count = 0
        for noun in self._nouns.names:
            count += await self._read_noun(noun, start)
        if stored is not None and start.epoch == stored.epoch and start.position < stored.position:
            raise SnapshotTooOld(
                "the snapshot is older than the cursor: the producer's database has gone back; if it was restored "
                "without `cascade restore`, restore it with that command"
            )
        for noun in self._nouns.names:
            await self._tell_absent(noun, start.epoch)
        with fault_point("events.snapshot.finish"):
            async with self._engine.transaction(key_of(self.producer), *self._effects.keys):
                current = await self._stored_cursor()
                if current is None or (current.epoch, current.position) < (start.epoch, start.position):
                    await self._store.set_cursor(start)
        self._at = start
        self.head = max(self.head, start.position)
        self.snapshots += 1
        return count

    async def _stored_cursor(self) -> Cursor | None:
        try:
            return await self._store.cursor()
        except CursorError:
            return None

    async def _page(self, after: str, limit: int) -> SnapshotPage:
        path = f"{PATH_SNAPSHOT}?after={after}&limit={limit}"
        page = (await self._client().call("GET", path, seconds=ANSWER_SECONDS)).into(SnapshotPage)
        self._answered_at = asyncio.get_running_loop().time()
        return page

    async def _read_noun(self, noun: str, start: Cursor) -> int:
        """Apply the snapshot's events of a noun. Return their number. Subjects of a noun follow each other."""
        after, count = f"{noun}/", 0
        while True:
            page = await self._page(after, EVENTS_MAX)
            if page.epoch != start.epoch or any(event.epoch != start.epoch for event in page.events):
                raise SnapshotNeeded("the epoch of the producer has changed between two pages")
            subjects = [event.subject for event in page.events]
            if subjects != sorted(set(subjects)) or (subjects and subjects[0] <= after):
                raise Broken("the subjects of a snapshot are not in their order")
            read = self._read([event for event in page.events if event.subject.startswith(f"{noun}/")])
            self._hear(read)
            if read:
                with fault_point("events.page.apply"):
                    async with self._engine.transaction(key_of(self.producer), *self._effects.keys):
                        await self._apply_each(read)
            count += len(read)
            if not page.next or len(read) < len(page.events):
                return count
            if page.next <= after:
                raise Broken("the subjects of a snapshot are not in their order")
            after = page.next

    async def _tell_absent(self, noun: str, epoch: int) -> None:
        """Tell the effects which objects of older epochs the snapshot did not have, some at a time."""
        is_more = True
        while is_more:
            subjects = await self._store.older(noun, epoch)
            is_more = bool(subjects)
            for subject in subjects:
                self._said.warn("absent", "an object is not in the snapshot", **self._extra("absent"), subject=subject)
            if subjects:
                with fault_point("events.absent.apply"):
                    async with self._engine.transaction(key_of(self.producer), *self._effects.keys):
                        for subject in subjects:
                            if await self._store.forget(subject):
                                await self._effects.absent(subject)
