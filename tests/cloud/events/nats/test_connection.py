"""`cloud.events.nats.connection`: a connection to a real server, and each way in which it fails."""

import asyncio
from pathlib import Path

import pytest

from cloud.events.nats.connection import Access, Message, NatsRefused, NatsUnavailable, connected
from cloud.events.nats.settings import NatsSettings
from cloud.events.nats.stream import declare_stream
from lab.nats import NatsServer
from tests.cloud.events.nats.support import access_of
from tests.waiting import until

SETTINGS = NatsSettings(url="tls://127.0.0.1:4222", stream_bytes=4 * 1024 * 1024)


def _message(number: int, service: str = "fabric") -> Message:
    return Message(f"cascade.tnt_1.{service}.node.activated.n{number}", f"evt_{number}", b"{}")


async def _count(access: Access) -> int:
    async with connected(access) as link:
        return int((await link.ask("STREAM.INFO.CASCADE_EVENTS", {}))["state"]["messages"])


async def test_messages_are_stored_once_each(server: NatsServer, access: Access) -> None:
    async with connected(access) as link:
        await declare_stream(link, SETTINGS)
        assert await link.store([_message(number) for number in range(3)]) == 3
        assert await link.store([_message(2), _message(3)]) == 2
        assert await link.store([]) == 0
    assert await _count(access) == 4


async def test_a_message_that_is_refused_stops_the_count_before_it(access: Access) -> None:
    async with connected(access) as link:
        await declare_stream(link, SETTINGS)
        large = Message(_message(5).subject, "evt_large", bytes(60_000))
        assert await link.store([_message(4), large, _message(6)]) == 1
        with pytest.raises(NatsUnavailable, match="message size exceeds maximum"):
            await link.store([large])


async def test_one_service_cannot_write_the_events_of_another(server: NatsServer, access: Access) -> None:
    async with connected(access) as link:
        await declare_stream(link, SETTINGS)
    before = await _count(access)
    async with connected(access_of(server, "breakwater")) as link:
        await link.say(_message(7).subject, b"{}")
        await link.say("cascade_rings.fabric", b"1")
    assert await _count(access) == before
    async with connected(access) as link:
        with pytest.raises(NatsRefused, match="404"):
            await link.ask("CONSUMER.INFO.CASCADE_EVENTS.none", {})


async def test_rings_are_heard_by_other_services(server: NatsServer, access: Access) -> None:
    heard: list[tuple[str, bytes]] = []
    async with connected(access) as first, connected(access_of(server, "breakwater")) as second:
        await second.hear("cascade_rings.*", lambda subject, content: heard.append((subject, content)))
        await first.say("cascade_rings.fabric", b"7")
        await until("a ring", lambda: heard)
    assert heard == [("cascade_rings.fabric", b"7")]


async def test_what_cannot_be_reached_is_unavailable(server: NatsServer, absent: Access, tmp_path: Path) -> None:
    missing = absent._replace(credentials_file=tmp_path / "none.creds")
    readable = tmp_path / "open.creds"
    readable.write_bytes(server.credentials("fabric").read_bytes())
    readable.chmod(0o644)
    stranger = NatsServer(tmp_path / "stranger")
    cases = {
        absent: "Connect call failed",
        missing: "No such file",
        absent._replace(credentials_file=readable): "others can read it",
        absent._replace(url=server.url, ca_file=stranger.ca_file): "certificate verify failed",
        absent._replace(
            url=server.url, credentials_file=stranger.credentials("fabric")
        ): "authorization violation|pipe|reset|eof",
    }
    for access, cause in cases.items():
        with pytest.raises(NatsUnavailable, match=f"(?i){cause}"):
            async with connected(access):
                pass


async def test_a_connection_ends_with_its_server(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await asyncio.to_thread(server.start)
    async with connected(access_of(server, "fabric")) as link:
        await declare_stream(link, SETTINGS)
        server.kill()
        await asyncio.wait_for(link.ended.wait(), 10)
        with pytest.raises(NatsUnavailable):
            await link.store([_message(1)])
        with pytest.raises(NatsUnavailable):
            await link.ask("STREAM.INFO.CASCADE_EVENTS", {})
        with pytest.raises(NatsUnavailable):
            await link.say("cascade_rings.fabric", b"1")
        with pytest.raises(NatsUnavailable):
            await link.hear("cascade_rings.*", lambda _subject, _content: None)
