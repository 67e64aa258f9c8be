"""A tenant's consumer, written with nats-py alone, reads the events of its tenant and nothing else."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from cloudevents.core.formats.json import JSONFormat
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.errors import NoRespondersError

from cloud.events.nats.connection import connected
from cloud.events.nats.stream import declare_consumers, declare_stream, delete_consumer
from lab.nats import NatsServer
from tests.cloud.events.nats.support import SETTINGS, access_of, copy_of, running, stored
from tests.cloud.events.support import Producer
from tests.waiting import until

PAGE = Path(__file__).parents[4] / "docs" / "events.md"
MINE, THEIRS = "cns_mine", "cns_theirs"
TENANT, OTHER = "tnt_mine", "tnt_theirs"
NEXT = "$JS.API.CONSUMER.MSG.NEXT.CASCADE_EVENTS"

SUBSCRIPTIONS = [
    f"cascade.{OTHER}.>",
    f"cascade.{TENANT}.>",
    "cascade.>",
    ">",
    "_INBOX.>",
    f"_INBOX.{THEIRS}.>",
    "cascade_rings.*",
    "$JS.>",
    "$JS.API.>",
    "$JS.EVENT.>",
    "$SYS.>",
    "_R_.>",
]
"""What the consumer of another tenant must not hear."""
REQUESTS = [
    f"{NEXT}.{THEIRS}",
    f"{NEXT}.*",
    f"{NEXT}.>",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.CASCADE_EVENTS",
    "$JS.API.STREAM.UPDATE.CASCADE_EVENTS",
    "$JS.API.STREAM.PURGE.CASCADE_EVENTS",
    "$JS.API.STREAM.DELETE.CASCADE_EVENTS",
    "$JS.API.STREAM.MSG.GET.CASCADE_EVENTS",
    "$JS.API.STREAM.MSG.DELETE.CASCADE_EVENTS",
    f"$JS.API.DIRECT.GET.CASCADE_EVENTS.cascade.{OTHER}.>",
    "$JS.API.STREAM.CREATE.OWN",
    "$JS.API.CONSUMER.CREATE.CASCADE_EVENTS",
    f"$JS.API.CONSUMER.CREATE.CASCADE_EVENTS.own.cascade.{OTHER}.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.CASCADE_EVENTS.own",
    f"$JS.API.CONSUMER.DELETE.CASCADE_EVENTS.{THEIRS}",
    f"$JS.API.CONSUMER.DELETE.CASCADE_EVENTS.{MINE}",
    f"$JS.API.CONSUMER.INFO.CASCADE_EVENTS.{THEIRS}",
    "$JS.API.CONSUMER.LIST.CASCADE_EVENTS",
    f"$JS.API.CONSUMER.PAUSE.CASCADE_EVENTS.{THEIRS}",
    f"$JS.ACK.CASCADE_EVENTS.{THEIRS}.1.1.1.1.0",
    f"cascade.{TENANT}.breakwater.thing.changed.forged",
    f"cascade.{OTHER}.breakwater.thing.changed.forged",
    "cascade_rings.breakwater",
    f"_INBOX.{THEIRS}.x",
]
"""What the consumer must not send."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def _filled(producer: Producer, server: NatsServer) -> AsyncIterator[None]:
    """Copy two events of each tenant. Each tenant has a consumer."""
    for object_id in ("a", "b"):
        for tenant in (TENANT, OTHER):
            await producer.add(f"{tenant}-{object_id}", tenant=tenant)
    await producer.place()
    async with connected(access_of(server, "fabric")) as link:
        await declare_stream(link, SETTINGS)
        await declare_consumers(link, {MINE: TENANT, THEIRS: OTHER})
    async with running(copy_of(producer, access_of(server))):
        await until("the copy", lambda: _count(server, 4))
    yield


async def _count(server: NatsServer, count: int) -> bool:
    return len(await stored(server)) == count


@asynccontextmanager
async def _tenant(server: NatsServer, errors: list[str]) -> AsyncIterator[Client]:
    """A client of the tenant, as its own program makes it."""

    async def failed(error: Exception) -> None:
        errors.append(str(error))

    client = await nats.connect(
        server.url,
        tls=server.tls(),
        inbox_prefix=f"_INBOX.{MINE}",
        error_cb=failed,
        allow_reconnect=False,
        **server.consumer(MINE),
    )
    try:
        yield client
    finally:
        await client.close()


async def test_a_tenant_reads_its_own_events(producer: Producer, own: NatsServer) -> None:
    async with _filled(producer, own), _tenant(own, []) as client:
        subscription = await client.jetstream().pull_subscribe_bind(MINE, "CASCADE_EVENTS")
        messages = await subscription.fetch(10, timeout=1)
        events = [JSONFormat().read(None, message.data) for message in messages]
        assert [event.get_attributes()["subject"] for event in events] == [f"thing/{TENANT}-a", f"thing/{TENANT}-b"]
        assert {message.headers["Content-Type"] for message in messages if message.headers} == {
            "application/cloudevents+json"
        }
        for message in messages:
            await message.ack_sync()


async def test_a_tenant_reaches_nothing_else(producer: Producer, own: NatsServer) -> None:
    errors: list[str] = []
    async with _filled(producer, own), _tenant(own, errors) as client:
        before = [(message.subject, message.data) for message in await stored(own)]
        heard: list[str] = []

        async def hear(message: Any) -> None:
            heard.append(message.subject)

        for subject in SUBSCRIPTIONS:
            await client.subscribe(subject, cb=hear)
        for subject in REQUESTS:
            await client.publish(subject, b"{}", reply=f"_INBOX.{MINE}.answer")
        # An answer goes where its request says. In the tenant's account no stream has that subject.
        injected = f"cascade.{OTHER}.breakwater.thing.changed.injected"
        await client.publish(f"{NEXT}.{MINE}", b'{"batch":1}', reply=injected)
        await until("every refusal", lambda: len(errors) == len(SUBSCRIPTIONS) + len(REQUESTS))
        assert all("permissions violation" in error for error in errors)
        assert [(message.subject, message.data) for message in await stored(own)] == before
        assert heard == []


async def test_a_deleted_consumer_reads_nothing_at_once(producer: Producer, own: NatsServer) -> None:
    async with _filled(producer, own), _tenant(own, []) as client:
        subscription = await client.jetstream().pull_subscribe_bind(MINE, "CASCADE_EVENTS")
        assert len(await subscription.fetch(1, timeout=1)) == 1
        async with connected(access_of(own, "fabric")) as link:
            await delete_consumer(link, MINE)
        with pytest.raises(NoRespondersError):
            await client.request(f"{NEXT}.{MINE}", b'{"batch":1,"no_wait":true}', timeout=2)


async def test_the_example_of_the_page_reads_events(producer: Producer, own: NatsServer, tmp_path: Path) -> None:
    """The program of docs/events.md runs as it is printed there."""
    section = PAGE.read_text().split("## Your own consumers\n")[1].split("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    key = Ed25519PrivateKey.generate()
    (tmp_path / "consumer.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "consumer.jwt").write_text(own.consumer_token(MINE, key))
    (tmp_path / "ca.pem").write_bytes(own.ca_file.read_bytes())
    async with _filled(producer, own):
        command = [sys.executable, "-c", program, own.url, MINE]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    read = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["subject"], event["tenant"]) for event in read] == [
        (f"thing/{TENANT}-a", TENANT),
        (f"thing/{TENANT}-b", TENANT),
    ]
