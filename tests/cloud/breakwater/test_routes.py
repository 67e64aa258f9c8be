"""The routes over real mTLS: who is admitted, what is refused, and with which problem."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.breakwater.bootstrap import initialise
from cloud.client import CloudClient, ProblemAnswer, Unreachable
from cloud.clock import utc_now
from cloud.guard import routes_of
from cloud.issuing import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_DEVICE,
    PATH_OPEN,
    PATH_RENEW_DEVICE,
    PATH_REVOKED_SERVICES,
    PATH_SERVICE,
    PATH_SESSION,
    GenerationOpened,
    GenerationsClosed,
    IssueServiceCertificate,
    RevokedServices,
)
from cloud.keyfile import write_secret
from cloud.peer import spiffe_of
from cloud.service_identity import make_csr
from protocol.problems import ProblemDocument
from protocol.sessions import Certificate, RenewDevice
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, TRUST_DOMAIN, ask, closing, load, new_key, opening, plan_for

SERVICES = "service/fabric service/breakwater service/ledger service/headwaters service/conduit service/weir"
PEERS = {
    ("POST", PATH_OPEN): "service/fabric",
    ("POST", PATH_CLOSE): "service/fabric",
    ("POST", PATH_CLOSE_ONE): "service/fabric",
    ("POST", PATH_DEVICE): "service/fabric",
    ("POST", PATH_SESSION): "service/fabric",
    ("POST", PATH_SERVICE): SERVICES,
    ("POST", PATH_RENEW_DEVICE): "node",
    ("GET", PATH_REVOKED_SERVICES): SERVICES,
    ("GET", "/healthz"): "anonymous",
    ("GET", "/readyz"): "anonymous",
}
DAYS_90 = timedelta(days=90)


@pytest.fixture(scope="module")
def live_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("live")
    write_secret(directory / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(directory), utc_now))
    shutil.copy(directory / "breakwater" / "database.sqlite", directory / "pristine.sqlite")
    return directory


@pytest.fixture
async def live(live_home: Path) -> AsyncIterator[Live]:
    shutil.copy(live_home / "pristine.sqlite", live_home / "breakwater" / "database.sqlite")
    async with live_at(live_home) as running:
        yield running


async def refused(client: CloudClient, method: str, path: str, body: object = None) -> ProblemDocument:
    with pytest.raises(ProblemAnswer) as caught:
        (await client.call(method, path, body)).into(Certificate)
    return caught.value.problem


async def test_every_route_lists_its_peers(live: Live) -> None:
    found = {(r.method, r.path): " ".join(map(str, r.peers)) for r in routes_of(live.wired.app) if r.method != "HEAD"}
    assert found == PEERS


async def test_the_life_of_a_generation(live: Live) -> None:
    device_key, session_key = new_key(), new_key()
    not_after = utc_now() + DAYS_90
    async with live.fabric() as fabric:
        for _ in range(2):
            assert (await fabric.call("POST", PATH_OPEN, opening())).into(GenerationOpened) == GenerationOpened(1)
        asked = ask(device_key, request="d", not_after=not_after)
        device = (await fabric.call("POST", PATH_DEVICE, asked)).into(Certificate)
        assert (await fabric.call("POST", PATH_DEVICE, asked)).into(Certificate) == device
        end = load(device.certificate_chain[0]).not_valid_after_utc
        wanted = ask(session_key, request="s", not_after=end)
        session = (await fabric.call("POST", PATH_SESSION, wanted)).into(Certificate)
        async with live.holder(session, session_key) as node:
            renewal = RenewDevice("renew-1", make_csr(device_key))
            renewed = (await node.call("POST", PATH_RENEW_DEVICE, renewal)).into(Certificate)
            assert load(renewed.certificate_chain[0]).public_key() == device_key.public_key()
            foreign = await refused(node, "POST", PATH_RENEW_DEVICE, RenewDevice("renew-2", make_csr(new_key())))
            assert foreign.code == "csr_refused"
            closed = (await fabric.call("POST", PATH_CLOSE, closing())).into(GenerationsClosed)
            assert closed == GenerationsClosed(2)
            # The same connection, the next request.
            assert (await refused(node, "POST", PATH_RENEW_DEVICE, renewal)).code == "generation_closed"
        assert (await refused(fabric, "POST", PATH_DEVICE, asked)).code == "generation_closed"
        assert (await refused(fabric, "POST", PATH_OPEN, opening())).code == "conflict"


async def test_callers_that_are_not_admitted(live: Live) -> None:
    key = new_key()
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        body = ask(key, not_after=utc_now() + DAYS_90)
        session = (await fabric.call("POST", PATH_SESSION, body)).into(Certificate)
        assert (await refused(fabric, "POST", PATH_RENEW_DEVICE, RenewDevice("r", b""))).code == "peer_refused"
    async with live.holder(session, key) as node, live.breakwater() as breakwater, live.anonymous() as anonymous:
        for (method, path), peers in PEERS.items():
            if peers == "anonymous":
                continue
            assert (await refused(anonymous, method, path)).code == "peer_required"
            if path != PATH_RENEW_DEVICE:
                assert (await refused(node, method, path)).code == "peer_refused"
            if peers == "service/fabric":
                assert (await refused(breakwater, method, path, body)).code == "peer_refused"
        for path in ("/healthz", "/readyz"):
            assert (await anonymous.call("GET", path)).status == 200


async def test_a_device_certificate_is_no_client_certificate(live: Live) -> None:
    key = new_key()
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        answer = await fabric.call("POST", PATH_DEVICE, ask(key, not_after=utc_now() + DAYS_90))
    async with live.holder(answer.into(Certificate), key) as node:
        with pytest.raises(Unreachable):
            await node.call("POST", PATH_RENEW_DEVICE, RenewDevice("r", make_csr(key)))


async def test_a_service_gets_its_own_name_whatever_it_sends(live: Live) -> None:
    async with live.fabric() as fabric, live.breakwater() as breakwater:
        for client, name in ((fabric, "fabric"), (breakwater, "breakwater")):
            body = IssueServiceCertificate("x", make_csr(new_key()))
            leaf = load((await client.call("POST", PATH_SERVICE, body)).into(Certificate).certificate_chain[0])
            assert str(spiffe_of(leaf)) == f"spiffe://{TRUST_DOMAIN}/service/{name}"
        assert (await fabric.call("GET", PATH_REVOKED_SERVICES)).into(RevokedServices) == RevokedServices(())


BAD_BODIES: dict[str, tuple[object, str]] = {
    "nothing": (None, "malformed"),
    "empty object": ({}, "invalid"),
    "a list": ([], "invalid"),
    "an unknown field": (
        {
            "request": "r",
            "tenant": "t",
            "node": "n",
            "generation": 1,
            "csr": "",
            "not_after": "2027-01-01T00:00:00Z",
            "ca": 1,
        },
        "invalid",
    ),
    "a generation in quotes": (
        {"request": "r", "tenant": "t", "node": "n", "generation": "1", "csr": "", "not_after": "2027-01-01T00:00:00Z"},
        "invalid",
    ),
    "too large": ({"request": "r" * 100_000}, "too_large"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_bodies(live: Live, name: str) -> None:
    body, code = BAD_BODIES[name]
    async with live.fabric() as fabric:
        for path in (PATH_DEVICE, PATH_SESSION):
            assert (await refused(fabric, "POST", path, body)).code == code


async def test_refusals_name_the_check(live: Live) -> None:
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        good = ask(new_key(), not_after=utc_now() + DAYS_90)
        torn = type(good)(good.request, good.tenant, good.node, 1, good.csr[:-1], good.not_after)
        problem = await refused(fabric, "POST", PATH_DEVICE, torn)
        assert (problem.status, problem.code) == (403, "csr_refused")
        assert "PKCS#10" in problem.detail
        assert problem.next
        await fabric.call("POST", PATH_DEVICE, good)
        other = ask(new_key(), not_after=utc_now() + DAYS_90)
        assert (await refused(fabric, "POST", PATH_DEVICE, other)).code == "conflict"
        assert (await refused(fabric, "POST", PATH_DEVICE, ask(new_key(), generation=0))).code == "invalid"
