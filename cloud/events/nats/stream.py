"""Values: the stream and the consumers, as NATS stores them. Everything about their form is here."""

from collections.abc import Mapping
from typing import Any

from cloud.events.nats import subjects
from cloud.events.nats.connection import NOT_FOUND, Link, NatsRefused
from cloud.events.nats.settings import NatsSettings

_NANOSECONDS = 1_000_000_000
DUPLICATE_SECONDS = 120
"""How long the server knows the id of a message. It is the default; a longer time costs memory."""
EVENT_BYTES_MAX = 56 * 1024
"""An event has 48 kB of data at most. The server takes messages of 64 kB (`max_payload`)."""
ACKNOWLEDGE_SECONDS = 30
ACKNOWLEDGE_MAX = 1000
REQUESTS_MAX = 16
REQUEST_EVENTS_MAX = 500
CONSUMERS_PAGE = 256

Config = Mapping[str, Any]


def stream_config(settings: NatsSettings) -> dict[str, Any]:
    """Return the stream. When it is full, it deletes its oldest events, because the outbox still has them."""
    return {
        "name": subjects.STREAM,
        "subjects": [f"{subjects.EVENTS}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": settings.keep_days * 86_400 * _NANOSECONDS,
        "max_bytes": settings.stream_bytes,
        "max_msg_size": EVENT_BYTES_MAX,
        "num_replicas": settings.stream_replicas,
        "duplicate_window": DUPLICATE_SECONDS * _NANOSECONDS,
        "deny_delete": True,
    }


def consumer_config(consumer: str, tenant: str) -> dict[str, Any]:
    """Return a tenant's consumer: it gets the events of this tenant, from the oldest on, and repeats what is not
    acknowledged.
    """
    return {
        "name": consumer,
        "durable_name": consumer,
        "filter_subject": subjects.of_tenant(tenant),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ACKNOWLEDGE_SECONDS * _NANOSECONDS,
        "max_deliver": -1,
        "max_ack_pending": ACKNOWLEDGE_MAX,
        "max_waiting": REQUESTS_MAX,
        "max_batch": REQUEST_EVENTS_MAX,
        "replay_policy": "instant",
    }


async def declare_stream(link: Link, settings: NatsSettings) -> str:
    """Make the stream, or change it to the declared form. Returns when the stream was made, as the server says it.

    Raises NatsUnavailable, NatsRefused.
    """
    wanted = stream_config(settings)
    try:
        found = await link.ask(f"STREAM.INFO.{subjects.STREAM}", {})
    except NatsRefused as error:
        if error.code != NOT_FOUND:
            raise
        found = await link.ask(f"STREAM.CREATE.{subjects.STREAM}", wanted)
    config = found["config"]
    if any(config.get(name) != value for name, value in wanted.items()):
        found = await link.ask(f"STREAM.UPDATE.{subjects.STREAM}", {**config, **wanted})
    return str(found["created"])[:64]


async def declare_consumers(link: Link, wanted: Mapping[str, str]) -> None:
    """Make the consumers in `wanted` (consumer to tenant), and delete all others. Raises NatsUnavailable, NatsRefused.

    A deleted consumer gets no further event, also over a connection that is open.
    """
    found = await _consumers(link)
    for consumer in found - wanted.keys():
        await delete_consumer(link, consumer)
    for consumer in wanted.keys() - found:
        config = consumer_config(consumer, wanted[consumer])
        await link.ask(
            f"CONSUMER.CREATE.{subjects.STREAM}.{consumer}.{config['filter_subject']}",
            {"stream_name": subjects.STREAM, "config": config, "action": ""},
        )


async def delete_consumer(link: Link, consumer: str) -> None:
    """Delete a consumer. One that does not exist is ignored. Raises NatsUnavailable, NatsRefused."""
    try:
        await link.ask(f"CONSUMER.DELETE.{subjects.STREAM}.{consumer}", {})
    except NatsRefused as error:
        if error.code != NOT_FOUND:
            raise


async def _consumers(link: Link) -> set[str]:
    found: set[str] = set()
    while True:
        answer = await link.ask(f"CONSUMER.NAMES.{subjects.STREAM}", {"offset": len(found)})
        names = answer.get("consumers") or []
        found.update(names)
        if not names or len(found) >= int(answer.get("total", 0)):
            return found
