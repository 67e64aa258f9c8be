"""`cloud.mtls.revoked`: a revocation counts at once, is loaded after a restart, and is forgotten late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from cloud.mtls.client import CloudClient, ServerCheck, ServerRefused, client_context, expected_service
from cloud.mtls.revoked import KEPT_AFTER, RevokedCertificate, RevokedSet
from tests.cloud.pki import TRUST_DOMAIN, Leaf
from tests.cloud.world import Connection, Order, World

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=7)


class Disk:
    """The entries that the service's database stores."""

    def __init__(self) -> None:
        self.entries: list[RevokedCertificate] = []
        self.forgot: list[datetime] = []

    async def load(self) -> list[RevokedCertificate]:
        return self.entries

    async def forget(self, now: datetime) -> None:
        self.forgot.append(now)


def revoked_set(disk: Disk, now: datetime = NOW) -> RevokedSet:
    return RevokedSet(load=disk.load, forget=disk.forget, now=lambda: now)


def entry(serial: int, not_after: datetime = LATER) -> RevokedCertificate:
    return RevokedCertificate(f"{serial:040x}", not_after)


async def test_a_restarted_service_refuses_at_once() -> None:
    disk = Disk()
    disk.entries = [entry(0xBAD)]
    serials = revoked_set(disk)
    assert 0xBAD not in serials
    await serials.load()
    assert (0xBAD in serials, 0x600D in serials, len(serials)) == (True, False, 1)


async def test_an_entry_with_nonsense_is_no_entry() -> None:
    serials = revoked_set(Disk())
    with pytest.raises(ValueError, match="invalid literal"):
        serials.add(RevokedCertificate("no hex", LATER))
    assert len(serials) == 0


async def test_it_forgets_what_expired_long_ago() -> None:
    disk = Disk()
    serials = revoked_set(disk)
    serials.add(entry(1, NOW - KEPT_AFTER))
    serials.add(entry(2, NOW - KEPT_AFTER + timedelta(seconds=1)))
    serials.add(entry(3))
    await serials.prune()
    assert [serial in serials for serial in (1, 2, 3)] == [False, True, True]
    assert disk.forgot == [NOW - KEPT_AFTER]


async def test_a_clock_that_is_ahead_by_the_life_of_a_certificate_forgets_nothing_valid() -> None:
    serials = revoked_set(Disk(), LATER)
    serials.add(entry(0xBAD, NOW))
    await serials.prune()
    assert 0xBAD in serials


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


async def test_a_kept_connection_is_refused_at_its_next_request() -> None:
    world, serials = World(), revoked_set(Disk())
    world.service_revoked = partial(_contains, serials)  # type: ignore[method-assign]
    leaf = world.pki.service("fabric")
    async with world.serving() as port, connected(world, port, leaf) as connection:
        assert (await connection.ask("/fabric")).status == 200
        serials.add(entry(leaf.certificate.serial_number))
        answer = await connection.ask("/fabric")
        assert answer.problem.code == "peer_refused"


async def test_a_server_gets_no_byte_of_the_next_request() -> None:
    world, serials = World(), revoked_set(Disk())
    check = ServerCheck(
        expected_service(TRUST_DOMAIN, "fabric"), world.trust, world.now, lambda serial: serial in serials
    )
    context = client_context(world.pki.ca_pem, check)
    async with world.serving() as port, CloudClient(f"https://localhost:{port}", context) as client:
        assert (await client.call("GET", "/open")).body == b"anonymous"
        serials.add(entry(world.server_leaf.certificate.serial_number))
        with pytest.raises(ServerRefused, match="revoked"):
            await client.call("POST", "/orders", Order(1))
