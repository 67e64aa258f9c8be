"""The agent's session: when it can be used, when it is replaced, and that nothing of it remains after `close`."""

from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest
import trio
import trio.testing

from node.exchanges.connection import Connection, same_peers
from node.exchanges.session import Credentials, open_session
from node.hwbind.tpm import Tpm
from node.link.api import CloudUnreachable, Service
from node.trust.published import TrustSet
from tests.node.conftest import Machine
from tests.node.shells import identity, trust_of
from tests.simulators.fabric import Fabric, authority, utc_now
from tests.simulators.machine_clocks import right_window


@pytest.fixture
def trust(fabric: Fabric) -> TrustSet:
    return trust_of(fabric)


@pytest.fixture
async def credentials(fabric: Fabric, trust: TrustSet, machine: Machine, tpm: Tpm) -> Credentials:
    fabric.confirmed = 1
    fabric.say(fabric.lease())
    opened = await open_session(trust, identity(fabric, machine.ak, machine.node_key), tpm, right_window, "")
    return opened.credentials


@pytest.fixture
async def connection(credentials: Credentials, trust: TrustSet) -> AsyncIterator[Connection]:
    made = Connection(right_window)
    await made.replace(credentials, trust)
    yield made
    await made.close()


async def test_without_a_session_no_session_can_be_used(trust: TrustSet) -> None:
    connection = Connection(right_window)
    assert (connection.credentials, connection.fabric, connection.session_until) == (None, None, None)
    assert not connection.serves(trust, utc_now())


async def test_a_session_serves_for_two_thirds_of_its_life(
    connection: Connection, credentials: Credentials, trust: TrustSet
) -> None:
    assert connection.session_until == credentials.not_after
    due = credentials.not_before + (credentials.not_after - credentials.not_before) * 2 / 3
    assert connection.serves(trust, due - timedelta(microseconds=1))
    assert not connection.serves(trust, due)


async def test_a_session_serves_under_the_peers_that_it_was_opened_under(
    connection: Connection, trust: TrustSet, fabric: Fabric
) -> None:
    now = utc_now()
    assert connection.serves(msgspec.structs.replace(trust, version=trust.version + 1), now)
    others = msgspec.structs.replace(fabric.bundle, service_issuers=(authority("services 2", fabric.root).der,))
    assert not connection.serves(msgspec.structs.replace(trust, bundle=others), now)


async def test_a_session_that_opens_ends_the_wait_for_one(credentials: Credentials, trust: TrustSet) -> None:
    connection = Connection(right_window)
    seen: list[Service] = []

    async def wait() -> None:
        seen.append(await connection.wait_open())

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not seen
            await connection.replace(credentials, trust)
        assert seen == [connection.fabric]
        seen.clear()
        await connection.close()


async def test_an_outdated_session_is_held_and_does_not_serve(connection: Connection, trust: TrustSet) -> None:
    connection.outdate()
    assert connection.credentials is not None
    assert connection.fabric is not None
    assert not connection.serves(trust, utc_now())


async def test_the_earlier_session_is_closed(connection: Connection, credentials: Credentials, trust: TrustSet) -> None:
    before = connection.fabric
    assert before is not None
    await connection.replace(credentials, trust)
    assert connection.fabric is not before
    with pytest.raises(CloudUnreachable, match="has closed the connection"):
        await before.nonce()


async def test_the_session_is_dropped_before_it_is_closed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` waits. Meanwhile no other task may use the client."""
    seen: list[Service | None] = []
    aclose = Service.aclose

    async def closing(service: Service) -> None:
        seen.append(connection.fabric)
        await aclose(service)

    monkeypatch.setattr(Service, "aclose", closing)
    await connection.close()
    assert (seen, connection.credentials, connection.session_until) == ([None], None, None)


async def test_peers_are_bundle_and_addresses(trust: TrustSet) -> None:
    assert same_peers(trust, msgspec.structs.replace(trust, version=9, generation=9))
    moved = msgspec.structs.replace(trust.urls, fabric="https://127.0.0.1:2")
    assert not same_peers(trust, msgspec.structs.replace(trust, urls=moved))
