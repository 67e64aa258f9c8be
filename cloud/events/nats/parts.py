"""Wiring: makes the parts of a service that use NATS. Without settings there are none. Decides nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cloud.events.doorbell import Rings
from cloud.events.nats.connection import Access
from cloud.events.nats.copy import Consumers, EventCopy
from cloud.events.nats.rings import NatsRings
from cloud.events.nats.settings import NatsSettings
from cloud.events.sequencer import Sequencer
from cloud.events.store.copy import CopyStore
from cloud.events.store.outbox import OutboxStore
from cloud.storage import ServiceEngine
from cloud.tasks.stopping import BackgroundTask

OWNER_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class NatsParts:
    """`rings` are ways for a `Doorbell`, which runs them. `copy` is None if nothing is copied."""

    rings: tuple[Rings, ...] = ()
    copy: EventCopy | None = None

    def tasks(self) -> tuple[BackgroundTask, ...]:
        """Return the background tasks for the process to run."""
        return () if self.copy is None else (self.copy.run,)

    def consumers_changed(self) -> None:
        """Have the consumers in the server compared with those of the database now."""
        if self.copy is not None:
            self.copy.consumers_changed()


def make_nats_parts(
    settings: NatsSettings | None,
    path: Callable[[str], Path],
    engine: ServiceEngine,
    sequencer: Sequencer,
    service: str,
    now: Callable[[], datetime],
    entropy: Callable[[int], bytes],
    consumers: Consumers | None = None,
) -> NatsParts:
    """Make the parts. Starts nothing. `path` resolves a path of the settings."""
    if settings is None:
        return NatsParts()
    access = Access(
        url=settings.url,
        ca_file=path(settings.ca_file) if settings.ca_file else None,
        credentials_file=path(settings.credentials_file),
        service=service,
    )
    rings = (NatsRings(access, now),) if settings.rings else ()
    if not settings.copies:
        return NatsParts(rings=rings)
    copy = EventCopy(
        store=CopyStore(engine),
        outbox=OutboxStore(engine),
        access=access,
        settings=settings,
        now=now,
        owner=entropy(OWNER_BYTES).hex(),
        consumers=consumers,
    )
    sequencer.on_advance(lambda _head, _is_ours: copy.wake())
    return NatsParts(rings=rings, copy=copy)
