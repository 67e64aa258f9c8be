"""Wiring: makes the parts of a producer over the engine of its service. Decides nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cloud.events.doorbell import Doorbell
from cloud.events.feed import ChangeFeed
from cloud.events.gauges import EventGauges
from cloud.events.outbox import Outbox
from cloud.events.retention import PURGE_SECONDS, Retention
from cloud.events.sequencer import Sequencer
from cloud.events.settings import EventSettings
from cloud.events.snapshot import Snapshots
from cloud.events.store.outbox import OutboxStore
from cloud.storage import ServiceEngine, StorageError
from cloud.tasks.current_request import current_traceparent
from cloud.tasks.periodic import every
from cloud.tasks.stopping import BackgroundTask

HINT_EVENTS = "events"
"""Topic of the hint of a process that has committed events and does not number them, for example a command."""
SERVICES = ("change_feed", "snapshots")
"""The keys of `EventParts.services`, available before a database is open."""


@dataclass(frozen=True, kw_only=True)
class EventParts:
    """The parts of one producer. Use cases add events to `outbox`."""

    service: str
    outbox: Outbox
    sequencer: Sequencer
    change_feed: ChangeFeed
    snapshots: Snapshots
    retention: Retention
    gauges: EventGauges

    def services(self) -> dict[str, object]:
        """Return the parts that the routes of events take, keyed by the name of the handler's parameter."""
        return {name: getattr(self, name) for name in SERVICES}

    def connect(self, doorbell: Doorbell) -> None:
        """Ring after events of this process, and look for events after rings of other replicas."""
        bell = doorbell.bell(self.service, self.sequencer.wake)
        self.sequencer.on_look(bell.seen)

        def ring(head: int, is_ours: bool) -> None:
            if is_ours:
                doorbell.ring(self.service, head)

        self.sequencer.on_advance(ring)

        async def missed() -> None:
            self.sequencer.wake()

        doorbell.on_hint(HINT_EVENTS, lambda _: self.sequencer.wake(), missed)

    def tasks(self) -> tuple[BackgroundTask, ...]:
        """Return the background tasks for the process to run."""
        return (
            self.sequencer.run,
            self.change_feed.close_at_stop,
            every(PURGE_SECONDS, "events purge", self.retention.run_once, (StorageError,)),
        )


def make_event_parts(
    engine: ServiceEngine,
    service: str,
    now: Callable[[], datetime],
    entropy: Callable[[int], bytes],
    settings: EventSettings,
    poll_seconds: float | None = None,
) -> EventParts:
    """Make the parts. Starts nothing. `poll_seconds` replaces the interval in which the sequencer looks without a wake."""
    store = OutboxStore(engine)
    sequencer = Sequencer(engine, store, poll_seconds)
    change_feed = ChangeFeed(store, service, now)
    sequencer.on_advance(lambda _head, _is_ours: change_feed.wake())
    retention = Retention(store, settings.kept, now)

    def committed() -> None:
        if sequencer.is_running:
            sequencer.wake()
        else:
            engine.hint(HINT_EVENTS)

    return EventParts(
        service=service,
        outbox=Outbox(engine, service, now, entropy=entropy, committed=committed, traceparent=current_traceparent),
        sequencer=sequencer,
        change_feed=change_feed,
        snapshots=Snapshots(store, service, now),
        retention=retention,
        gauges=EventGauges(store, retention, now),
    )
