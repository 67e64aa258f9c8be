"""Renewal of a service's certificate while it serves, asked of a real Breakwater."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cloud.breakwater.bootstrap import initialise
from cloud.clock import utc_now
from cloud.issuing import IssueServiceCertificate
from cloud.keyfile import write_secret
from cloud.peer import ServerTls
from cloud.server import Listener, Unit, running
from cloud.service_identity import Identity, IdentityError, IdentityKeeper, load_identity, make_csr, through
from protocol.sessions import Certificate
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, new_key, plan_for
from tests.cloud.world import ROUTES, World, connected, port_of

pytestmark = pytest.mark.slow


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    """A Breakwater that was initialised 20 days ago: certificates are due."""
    write_secret(tmp_path / "passphrase", PASSPHRASE)
    await initialise(plan_for(tmp_path), lambda: utc_now() - timedelta(days=20))
    async with live_at(tmp_path) as running_service:
        yield running_service


def identity(live: Live) -> Identity:
    return load_identity(live.home / "fabric" / "tls", live.home / "passphrase")


def keeper(live: Live, ask: object = None, tls: tuple[ServerTls, ...] = ()) -> IdentityKeeper:
    assert callable(ask)
    return IdentityKeeper(
        identity(live), live.home / "fabric" / "tls", trust=live.trust, ask=ask, now=utc_now, server_tls=tls
    )


class Once:
    """Wakes the task `turns` times, then stops it."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> bool:
        self.asked.append(seconds)
        self.turns -= 1
        return self.turns < 0


def serial_of(writer: asyncio.StreamWriter) -> int:
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


async def test_new_connections_get_the_new_certificate_and_old_ones_live_on(live: Live) -> None:
    old = identity(live)
    root = (live.home / "breakwater" / "certs" / "root.pem").read_bytes()
    tls = ServerTls(old.chain_pem, old.key, root)

    async def nothing() -> None:
        return None

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root.decode())
    unit = Unit(name="t", open=nothing, close=nothing, listeners=(Listener(World().app(), "127.0.0.1", 0, tls),))
    assert ROUTES
    async with running(unit) as servers, live.fabric() as client:
        port = port_of(servers[0])
        async with connected(port, context) as before:
            assert serial_of(before.writer) == old.leaf.serial_number
            it = keeper(live, through(client), (tls,))
            stop = Once(1)
            await it.keep(stop)
            assert it.identity.leaf.serial_number != old.leaf.serial_number
            assert (await before.ask("/open")).status == 200
            async with connected(port, context) as after:
                assert serial_of(after.writer) == it.identity.leaf.serial_number
                assert (await after.ask("/open")).status == 200
            assert (await before.ask("/open")).status == 200
        for connection in list(servers[0].server_state.connections):
            connection.transport.abort()
        await servers[0].shutdown()
    assert identity(live).leaf == it.identity.leaf
    assert stop.asked[0] == 1.0
    assert stop.asked[1] == 3600


async def test_breakwater_renews_its_own(live: Live) -> None:
    it = live.wired.identity
    old = it.identity.leaf.serial_number
    await it.keep(Once(1))
    assert it.identity.leaf.serial_number != old
    async with live.anonymous() as client:
        assert (await client.call("GET", "/readyz")).status == 200
    assert load_identity(live.home / "breakwater" / "tls", live.home / "passphrase").leaf == it.identity.leaf


async def test_a_lost_answer_gets_the_same_certificate(live: Live) -> None:
    answers: list[Certificate] = []
    async with live.fabric() as client:

        async def lossy(body: IssueServiceCertificate) -> Certificate:
            answers.append(await through(client)(body))
            if len(answers) == 1:
                raise OSError("lost")
            return answers[-1]

        it = keeper(live, lossy)
        stop = Once(2)
        await it.keep(stop)
    assert answers[0] == answers[1]
    assert stop.asked[1] == 600


async def test_nothing_is_done_before_two_thirds(live: Live) -> None:
    async def never(_: IssueServiceCertificate) -> Certificate:
        raise AssertionError

    fresh = keeper(live, never)
    fresh.identity = live.wired.identity.identity
    await live.wired.identity.renew()
    fresh.identity = live.wired.identity.identity
    stop = Once(3)
    await fresh.keep(stop)
    assert stop.asked == [3600] * 4


async def test_an_answer_that_is_not_ours_changes_nothing(live: Live) -> None:
    mine = identity(live)
    chain = (live.home / "fabric" / "tls" / "chain.pem").read_bytes()
    issuing = live.wired.issuing

    async def other_key(_: IssueServiceCertificate) -> Certificate:
        return await issuing.issue_service("fabric", IssueServiceCertificate("k", make_csr(new_key())))

    async def other_name(_: IssueServiceCertificate) -> Certificate:
        return await issuing.issue_service("breakwater", IssueServiceCertificate("n", make_csr(mine.key)))

    async def noise(_: IssueServiceCertificate) -> Certificate:
        return Certificate((b"noise",))

    async def the_old_one(_: IssueServiceCertificate) -> Certificate:
        return await issuing.issue_service("fabric", IssueServiceCertificate("init", make_csr(mine.key)))

    for ask in (other_key, other_name, noise, the_old_one):
        it = keeper(live, ask)
        with pytest.raises(IdentityError):
            await it.renew()
        assert it.identity.leaf == mine.leaf
    assert (live.home / "fabric" / "tls" / "chain.pem").read_bytes() == chain


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot use the identity"):
        load_identity(tmp_path, tmp_path / "passphrase")
