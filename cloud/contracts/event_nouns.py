"""Values: what a contract says about the events of one noun: its body, its version, and what can happen to it.

A type of event is `dev.cascade.SERVICE.NOUN.PAST.vVERSION`. All types of a noun and version have one body: the public
state of the object after the change.

Rules of evolution, checked by `tools/events_schemas.py`: a field is added with a default, and never removed, renamed or
changed, and neither is a value of an enumeration. A past participle is added and never removed. Everything else is a new
version, with a body of its own. A producer publishes the old version beside the new one until no consumer reads it.
"""

from typing import Any

import msgspec


class EventNoun(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one noun and version. `pasts` are the past participles of its types."""

    service: str
    noun: str
    version: int = 1
    body: type[msgspec.Struct]
    pasts: tuple[str, ...]

    @property
    def schema_name(self) -> str:
        """The name of the schema of the bodies."""
        return f"{self.service}.{self.noun}.v{self.version}"

    def type_of(self, past: str) -> str:
        """The type of the events with this past participle."""
        return f"dev.cascade.{self.service}.{self.noun}.{past}.v{self.version}"

    @property
    def types(self) -> tuple[str, ...]:
        """All types of events with this body."""
        return tuple(map(self.type_of, self.pasts))


def pasts_of(literal: Any) -> tuple[str, ...]:
    """The past participles that a `Literal` type lists."""
    return tuple(literal.__args__)
