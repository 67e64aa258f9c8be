"""Shared by the tests of NATS: a running copy, and the stream as an independent client reads it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.msg import Msg

from cloud.clock import utc_now
from cloud.events.nats.connection import Access
from cloud.events.nats.copy import Consumers, EventCopy
from cloud.events.nats.settings import NatsSettings
from cloud.events.store.copy import CopyStore
from cloud.tasks.stopping import Stopping
from lab.nats import NatsServer
from tests.cloud.events.support import SERVICE, Producer

SETTINGS = NatsSettings(url="tls://127.0.0.1:4222", stream_bytes=4 * 1024 * 1024)


def access_of(server: NatsServer, service: str = SERVICE) -> Access:
    """The access of a service to a server, with new credentials."""
    return Access(server.url, server.ca_file, server.credentials(service), service)


def copy_of(producer: Producer, access: Access, owner: str = "one", consumers: Consumers | None = None) -> EventCopy:
    """The copy of one replica. It does not run."""
    return EventCopy(
        store=CopyStore(producer.engine),
        outbox=producer.store,
        access=access,
        settings=SETTINGS,
        now=utc_now,
        owner=owner,
        consumers=consumers,
    )


@asynccontextmanager
async def running(copy: EventCopy) -> AsyncIterator[asyncio.Task[None]]:
    """A copy that runs until the block ends."""
    stopping = Stopping()
    task = asyncio.create_task(copy.run(stopping))
    try:
        yield task
    finally:
        stopping.request()
        await asyncio.gather(task, return_exceptions=True)


async def stored(server: NatsServer) -> list[Msg]:
    """Every message of the stream, as a client without limits reads it."""
    everything = server.credentials_of("reader", publish=[">"], subscribe=[">"])
    async with await nats.connect(server.url, tls=server.tls(), **everything) as client:
        jetstream = client.jetstream()
        count = (await jetstream.stream_info("CASCADE_EVENTS")).state.messages
        if not count:
            return []
        subscription = await jetstream.subscribe("cascade.>", ordered_consumer=True)
        return [await subscription.next_msg(timeout=5) for _ in range(count)]
