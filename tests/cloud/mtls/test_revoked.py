"""`cloud.mtls.revoked`: a revocation is known quickly, forgotten late, and the feed never hangs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import msgspec
import pytest

from cloud.contracts.breakwater import Revocations, RevokedSerial
from cloud.mtls.client import (
    Answer,
    CallError,
    CloudClient,
    ServerCheck,
    ServerRefused,
    Unreachable,
    client_context,
    expected_service,
)
from cloud.mtls.revoked import RETRY_SECONDS_FIRST, RETRY_SECONDS_MAX, WAIT_SECONDS, RevokedSet
from cloud.storage import StorageError
from cloud.tasks.stopping import Stopping
from tests.cloud.pki import TRUST_DOMAIN, Leaf
from tests.cloud.world import Connection, Order, World
from tests.waiting import until

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=7)


class Disk:
    """The entries that the service's database stores."""

    def __init__(self) -> None:
        self.entries: dict[str, RevokedSerial] = {}
        self.forgot: list[datetime] = []
        self.full = False

    async def load(self) -> list[RevokedSerial]:
        return list(self.entries.values())

    async def save(self, entries: Sequence[RevokedSerial]) -> None:
        if self.full:
            raise StorageError("the disk is full")
        self.entries |= {entry.serial: entry for entry in entries}

    async def forget(self, now: datetime) -> None:
        self.forgot.append(now)


class Issuer:
    """Breakwater's feed, with a long poll that the test ends."""

    def __init__(self) -> None:
        self.serves_by = ""
        self.entries: list[RevokedSerial] = []
        self.failing: CallError | None = None
        self.asked: list[tuple[int, int]] = []
        self.known: list[str] = []
        self.news = asyncio.Event()

    def revoke(self, serial: int, not_after: datetime = LATER) -> None:
        self.entries.append(RevokedSerial(len(self.entries) + 1, f"{serial:040x}", not_after))
        self.news.set()

    async def call(self, method: str, path: str, *, seconds: float) -> Answer:
        assert method == "GET"
        parts = dict(part.split("=") for part in path.partition("?")[2].split("&"))
        cursor, wait = int(parts["cursor"]), int(parts["wait"])
        self.asked.append((cursor, wait))
        assert seconds > wait
        if self.failing is not None:
            raise self.failing
        while not (found := tuple(entry for entry in self.entries if entry.feed > cursor)) and wait:
            self.news.clear()
            await self.news.wait()
            if self.failing is not None:
                raise self.failing
        self.known.append(parts["issuer"])
        body = Revocations(found[-1].feed if found else cursor, found, self.serves_by)
        return Answer(200, {"content-type": "application/json"}, msgspec.json.encode(body))

    def client(self) -> CloudClient:
        return cast(CloudClient, self)


def revoked_set(disk: Disk, entropy: bytes = b"\x00\x00") -> RevokedSet:
    return RevokedSet(load=disk.load, save=disk.save, forget=disk.forget, now=lambda: NOW, entropy=lambda _: entropy)


async def test_each_ca_of_breakwaters_certificate_is_reported_once() -> None:
    disk, issuer, reported = Disk(), Issuer(), list[str]()
    it = RevokedSet(
        load=disk.load, save=disk.save, forget=disk.forget, now=lambda: NOW, entropy=bytes, issuing=reported.append
    )
    for serves_by in ("", "one", "one", "two"):
        issuer.serves_by = serves_by
        await it.refresh(issuer.client())
    assert reported == ["one", "two"]
    assert issuer.known == ["", "", "one", "one"]


async def test_a_restarted_service_refuses_at_once() -> None:
    disk, issuer = Disk(), Issuer()
    issuer.revoke(0xBAD)
    await revoked_set(disk).refresh(issuer.client())
    again = revoked_set(disk)
    assert 0xBAD not in again
    await again.load()
    assert 0xBAD in again
    assert 0x600D not in again


async def test_what_was_heard_stays_while_the_issuer_is_away() -> None:
    disk, issuer = Disk(), Issuer()
    serials = revoked_set(disk)
    issuer.revoke(1)
    await serials.refresh(issuer.client())
    issuer.failing = Unreachable("gone")
    with pytest.raises(Unreachable):
        await serials.refresh(issuer.client())
    assert 1 in serials


async def test_after_a_failure_everything_is_asked_for_again() -> None:
    """An issuer whose database was restored has used places of its feed for a second time."""
    disk, issuer = Disk(), Issuer()
    serials = revoked_set(disk)
    for serial in (1, 2, 3):
        issuer.revoke(serial)
    assert await serials.refresh(issuer.client()) == 3
    issuer.failing = Unreachable("gone")
    with pytest.raises(Unreachable):
        await serials.refresh(issuer.client())
    issuer.failing, issuer.entries = None, []
    issuer.revoke(4)
    assert await serials.refresh(issuer.client()) == 1
    assert [cursor for cursor, _ in issuer.asked] == [0, 3, 0]
    assert all(serial in serials for serial in (1, 2, 3, 4))


async def test_what_cannot_be_kept_counts_all_the_same_and_is_asked_for_again() -> None:
    disk, issuer = Disk(), Issuer()
    serials = revoked_set(disk)
    issuer.revoke(1)
    disk.full = True
    with pytest.raises(StorageError):
        await serials.refresh(issuer.client())
    assert 1 in serials
    disk.full = False
    assert await serials.refresh(issuer.client()) == 1
    assert len(disk.entries) == 1


async def test_an_answer_with_nonsense_is_no_answer() -> None:
    serials, issuer = revoked_set(Disk()), Issuer()
    issuer.entries = [RevokedSerial(1, "no hex", LATER)]
    with pytest.raises(ValueError, match="invalid literal"):
        await serials.refresh(issuer.client())
    assert len(serials) == 0


async def test_it_forgets_what_has_expired() -> None:
    disk, issuer = Disk(), Issuer()
    serials = revoked_set(disk)
    issuer.revoke(1, NOW)
    issuer.revoke(2)
    await serials.refresh(issuer.client())
    await serials.prune()
    assert (1 in serials, 2 in serials, disk.forgot) == (False, True, [NOW])


async def test_what_a_wrong_clock_forgot_is_heard_again() -> None:
    disk, issuer, clock = Disk(), Issuer(), [NOW]
    issuer.revoke(0xBAD)
    known = RevokedSet(
        load=disk.load, save=disk.save, forget=disk.forget, now=lambda: clock[0], entropy=lambda _: b"\x00\x00"
    )
    await known.refresh(issuer.client())
    clock[0] = LATER + timedelta(days=1)
    await known.prune()
    clock[0] = NOW
    assert 0xBAD not in known
    await known.refresh(issuer.client())
    assert 0xBAD in known


async def test_it_follows_until_the_process_ends() -> None:
    disk, issuer, stopping = Disk(), Issuer(), Stopping()
    serials = revoked_set(disk)
    task = asyncio.create_task(serials.follow(issuer.client, stopping))
    await until("the poll", lambda: issuer.asked[-1:] == [(0, WAIT_SECONDS)])
    issuer.revoke(7)
    await until("the first entry", lambda: 7 in serials)
    await until("the next poll", lambda: issuer.asked[-1] == (1, WAIT_SECONDS))
    assert issuer.asked == [(0, 0), (0, WAIT_SECONDS), (1, WAIT_SECONDS)]
    stopping.request()
    async with asyncio.timeout(1):
        await task


async def test_it_follows_through_an_outage() -> None:
    disk, issuer, stopping = Disk(), Issuer(), Stopping()
    serials = revoked_set(disk)
    issuer.failing = Unreachable("gone")
    task = asyncio.create_task(serials.follow(issuer.client, stopping))
    await until("three tries", lambda: len(issuer.asked) >= 3)
    issuer.failing = None
    issuer.revoke(7)
    await until("the first entry", lambda: 7 in serials)
    disk.full = True
    issuer.revoke(8)
    await until("the second entry", lambda: 8 in serials)
    disk.full = False
    await until("both on the disk", lambda: len(disk.entries) == 2)
    stopping.request()
    async with asyncio.timeout(1):
        await task


async def test_it_ends_in_the_middle_of_a_pause() -> None:
    issuer, stopping = Issuer(), Stopping()
    issuer.failing = Unreachable("gone")
    serials = revoked_set(Disk(), b"\xff\xff")
    task = asyncio.create_task(serials.follow(issuer.client, stopping))
    await until("a try", lambda: issuer.asked)
    stopping.request()
    async with asyncio.timeout(1):
        await task


def test_pauses_double_up_to_a_bound_and_are_spread() -> None:
    longest, shortest = revoked_set(Disk(), b"\xff\xff"), revoked_set(Disk(), b"\x00\x00")
    pauses = [longest._back_off.failed(0.0) for _ in range(8)]
    assert pauses[:2] == [RETRY_SECONDS_FIRST, RETRY_SECONDS_FIRST * 2]
    assert pauses[-1] == RETRY_SECONDS_MAX
    assert all(shortest._back_off.failed(0.0) < 0.001 for _ in range(8))


async def test_a_kept_connection_is_refused_at_its_next_request() -> None:
    world, issuer, serials = World(), Issuer(), revoked_set(Disk())
    world.service_revoked = partial(_contains, serials)  # type: ignore[method-assign]
    leaf = world.pki.service("fabric")
    async with world.serving() as port, connected(world, port, leaf) as connection:
        assert (await connection.ask("/fabric")).status == 200
        stopping = Stopping()
        task = asyncio.create_task(serials.follow(issuer.client, stopping))
        await until("the poll", lambda: issuer.asked[-1:] == [(0, WAIT_SECONDS)])
        begun = asyncio.get_running_loop().time()
        issuer.revoke(leaf.certificate.serial_number)
        while (answer := await connection.ask("/fabric")).status == 200:
            assert asyncio.get_running_loop().time() - begun < 1
        assert answer.problem.code == "peer_refused"
        stopping.request()
        await task


async def _contains(serials: RevokedSet, serial: int) -> bool:
    return serial in serials


@asynccontextmanager
async def connected(world: World, port: int, leaf: Leaf) -> AsyncIterator[Connection]:
    context = world.client_context(leaf)
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context, server_hostname="localhost")
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def test_a_server_gets_no_byte_of_the_next_request() -> None:
    world, issuer, serials = World(), Issuer(), revoked_set(Disk())
    check = ServerCheck(
        expected_service(TRUST_DOMAIN, "fabric"), world.trust, world.now, lambda serial: serial in serials
    )
    context = client_context(world.pki.ca_pem, check)
    async with world.serving() as port, CloudClient(f"https://localhost:{port}", context) as client:
        assert (await client.call("GET", "/open")).body == b"anonymous"
        issuer.revoke(world.server_leaf.certificate.serial_number)
        await serials.refresh(issuer.client())
        with pytest.raises(ServerRefused, match="revoked"):
            await client.call("POST", "/orders", Order(1))
