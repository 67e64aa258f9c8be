"""Helper: an outbox that keeps events in memory, for tests of stores. It needs no transaction."""

from dataclasses import dataclass, field

import msgspec


@dataclass
class Recorded:
    """The events that were added: noun, id of the object, past participle."""

    events: list[tuple[str, str, str]] = field(default_factory=list)
    bodies: list[msgspec.Struct] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)

    async def add(self, noun: str, object_id: str, past: str, body: msgspec.Struct, *, tenant: str) -> None:
        self.events.append((noun, object_id, past))
        self.bodies.append(body)
        self.tenants.append(tenant)
