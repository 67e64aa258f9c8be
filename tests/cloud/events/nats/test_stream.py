"""`cloud.events.nats.stream`: the stream and the consumers in a real server have the declared form."""

import msgspec

from cloud.events.nats.connection import Access, connected
from cloud.events.nats.settings import NatsSettings
from cloud.events.nats.stream import (
    consumer_config,
    declare_consumers,
    declare_stream,
    delete_consumer,
    stream_config,
)

SETTINGS = NatsSettings(url="tls://127.0.0.1:4222", stream_bytes=4 * 1024 * 1024)
DAY_NANOSECONDS = 86_400 * 10**9


async def test_the_stream_is_made_once_and_then_changed(access: Access) -> None:
    longer = msgspec.structs.replace(SETTINGS, keep_days=8)
    async with connected(access) as link:
        made = await declare_stream(link, SETTINGS)
        assert made
        assert await declare_stream(link, SETTINGS) == made
        found = (await link.ask("STREAM.INFO.CASCADE_EVENTS", {}))["config"]
        assert {name: found[name] for name in stream_config(SETTINGS)} == stream_config(SETTINGS)
        assert await declare_stream(link, longer) == made
        found = (await link.ask("STREAM.INFO.CASCADE_EVENTS", {}))["config"]
        assert (found["max_age"], found["storage"], found["discard"]) == (8 * DAY_NANOSECONDS, "file", "old")


async def test_consumers_are_those_that_are_wanted(access: Access) -> None:
    async with connected(access) as link:
        await declare_stream(link, SETTINGS)
        await declare_consumers(link, {"cns_1": "tnt_1", "cns_2": "tnt_2"})
        await declare_consumers(link, {"cns_2": "tnt_2", "cns_3": "tnt_3"})
        answer = await link.ask("CONSUMER.NAMES.CASCADE_EVENTS", {"offset": 0})
        assert sorted(answer["consumers"]) == ["cns_2", "cns_3"]
        found = (await link.ask("CONSUMER.INFO.CASCADE_EVENTS.cns_3", {}))["config"]
        wanted = consumer_config("cns_3", "tnt_3")
        assert {name: found[name] for name in wanted} == wanted
        await delete_consumer(link, "cns_2")
        await delete_consumer(link, "cns_2")
        await declare_consumers(link, {})
        assert not (await link.ask("CONSUMER.NAMES.CASCADE_EVENTS", {"offset": 0}))["consumers"]
