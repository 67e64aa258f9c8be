"""Pure functions: what a follower trusts in an answer of a producer, and what it can read of an event.

An answer comes over mutual TLS from the producer itself. It is checked all the same, because a follower must notice a
gap, and must not stop at an event of a newer release.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import Event, parse_type
from cloud.events.cursor import Cursor


class Broken(ValueError):
    """The events of an answer do not follow each other. The text says how; it has no value of the answer."""


class Known(msgspec.Struct, frozen=True):
    """An event whose body the follower could read. `body` is of the type that its noun names."""

    event: Event
    body: msgspec.Struct


class Unknown(msgspec.Struct, frozen=True):
    """An event that the follower cannot read. `why` is `type`, `version`, `body` or `foreign`."""

    event: Event
    why: str


class Nouns:
    """The nouns whose events a follower reads, and those that it leaves out without a word."""

    def __init__(self, producer: str, nouns: Sequence[EventNoun], ignored: Iterable[str] = ()) -> None:
        self._producer = producer
        self.names = tuple(sorted({noun.noun for noun in nouns}))
        self._ignored = frozenset(ignored)
        self._decoders: Mapping[tuple[str, int], msgspec.json.Decoder[msgspec.Struct]] = {
            (noun.noun, noun.version): msgspec.json.Decoder(noun.body) for noun in nouns
        }

    def read(self, event: Event) -> Known | Unknown | None:
        """Return the event with its body, or why it cannot be read; None for an event that is left out.

        A past participle that this release does not know says that the object has changed, as every event does.
        """
        parts = parse_type(event.type)
        if parts is None:
            return Unknown(event, "type")
        if (
            parts.service != self._producer
            or event.source != f"/{self._producer}"
            or not event.subject.startswith(f"{parts.noun}/")
        ):
            return Unknown(event, "foreign")
        if parts.noun in self._ignored:
            return None
        decoder = self._decoders.get((parts.noun, parts.version))
        if decoder is None:
            return Unknown(event, "version" if parts.noun in self.names else "type")
        try:
            return Known(event, decoder.decode(event.data))
        except msgspec.ValidationError:
            return Unknown(event, "body")


def require_following(events: Sequence[Event], before: Cursor, after: Cursor) -> None:
    """Check that the events stand after each other, the first right after `before` and the last at `after`.

    Raises Broken: a position is missing or out of order, or the epoch is another one.
    """
    if after.epoch != before.epoch or any(event.epoch != before.epoch for event in events):
        raise Broken("the epoch of the producer is another one")
    for number, event in enumerate(events, before.position + 1):
        if event.position != number:
            raise Broken("a position is missing")
    if after.position != before.position + len(events):
        raise Broken("the cursor of the answer is not that of its last event")
