"""Use case: add an event to the outbox, in the transaction of the change that it reports.

    async with stores.transaction(f"tenant:{tenant.id}"):
        await stores.tenants.insert(tenant)
        await outbox.add("tenant", tenant.id, "created", TenantState(...), tenant=tenant.id)

The event is durable exactly if the change is. The row of the object orders the events of one object. A transaction that
adds events of several objects adds them in the order of their subjects, unless its keys exclude other writers of these
objects: two transactions that lock the same rows in different orders block each other.
"""

from collections.abc import Callable
from datetime import datetime
from typing import cast

import msgspec

from cloud.contracts.events import DATA_BYTES_MAX, NAME, EventType, subject_of
from cloud.events.store.outbox import EventRow, OutboxStore
from cloud.storage import ServiceEngine, TransactionMisuse
from protocol.faults import fault_point
from protocol.ids import EventId, make_id

ID_ENTROPY_BYTES = 10


class Outbox:
    """Adds events of one service.

    `committed` is called after the commit of each transaction that has added events. `traceparent` returns the trace
    context of the running request, or an empty text.
    """

    def __init__(
        self,
        engine: ServiceEngine,
        service: str,
        now: Callable[[], datetime],
        *,
        entropy: Callable[[int], bytes],
        committed: Callable[[], None] = lambda: None,
        traceparent: Callable[[], str] = str,
    ) -> None:
        self._engine = engine
        self._service = service
        self._now = now
        self._entropy = entropy
        self._committed = committed
        self._traceparent = traceparent
        self._store = OutboxStore(engine)

    async def add(
        self, noun: str, object_id: str, past: str, body: msgspec.Struct, *, tenant: str = "", version: int = 1
    ) -> None:
        """Add the event "`noun` was `past`". `body` is the public state of the object after the change.

        An event without a `tenant` is for services only. Every version of a body has its own struct.

        Raises:
            TransactionMisuse: the caller has no open transaction.
            ValueError: a name or an id has another form, or the body is too large. It is a fault of the code.
        """
        if not self._engine.is_in_transaction:
            raise TransactionMisuse("an event is added in the transaction of its change")
        subject = subject_of(noun, object_id)
        if not NAME.fullmatch(past):
            raise ValueError("the verb of an event has small letters")
        data = msgspec.json.encode(body)
        if len(data) > DATA_BYTES_MAX:
            raise ValueError(f"the state in an event has at most {DATA_BYTES_MAX} bytes, not {len(data)}")
        now = self._now()
        event_id = cast(EventId, make_id("evt", int(now.timestamp() * 1000), self._entropy(ID_ENTROPY_BYTES)))
        with fault_point("events.event.add"):
            await self._store.insert(
                EventRow(
                    position=None,
                    id=event_id,
                    type=str(EventType(self._service, noun, past, version)),
                    subject=subject,
                    sequence=await self._store.next_sequence(subject),
                    time=now,
                    tenant=tenant,
                    traceparent=self._traceparent(),
                    data=data,
                )
            )
        self._engine.after_commit(self._committed)
