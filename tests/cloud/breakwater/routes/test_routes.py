"""The routes over real mTLS: who is admitted, what is refused, and with which problem."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from cloud.breakwater.bootstrap import initialise
from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_DEVICE,
    PATH_OPEN,
    PATH_REVOCATIONS,
    PATH_SESSION,
    PATH_SUPERSEDE_KEYS,
    GenerationOpened,
    GenerationsClosed,
)
from cloud.crypto.keyfile import write_secret
from cloud.http.guard import routes_of
from cloud.mtls.client import Answer, CloudClient, ProblemAnswer, Unreachable
from cloud.mtls.identity import make_csr
from cloud.storage import Statement
from protocol.messages.est import (
    PATH_CACERTS,
    PATH_CSRATTRS,
    PATH_SIMPLEENROLL,
    PATH_SIMPLEREENROLL,
    TYPE_PKCS10,
    decode_certs_only,
    encode_base64,
)
from protocol.messages.sessions import Certificate
from protocol.problems import ProblemDocument
from tests.cloud.breakwater.generations import make_authority
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, ask, closing, load, new_key, opening, plan_for

pytestmark = pytest.mark.slow

SERVICES = "service/fabric service/breakwater service/ledger service/headwaters service/conduit service/weir"
PEERS = {
    ("POST", PATH_OPEN): "service/fabric",
    ("POST", PATH_CLOSE): "service/fabric",
    ("POST", PATH_CLOSE_ONE): "service/fabric",
    ("POST", PATH_SUPERSEDE_KEYS): "service/fabric",
    ("POST", PATH_DEVICE): "service/fabric",
    ("POST", PATH_SESSION): "service/fabric",
    ("GET", PATH_REVOCATIONS): SERVICES,
    ("GET", PATH_CACERTS): "anonymous",
    ("GET", PATH_CSRATTRS): "anonymous",
    ("POST", PATH_SIMPLEENROLL): "enrolling",
    ("POST", PATH_SIMPLEREENROLL): f"{SERVICES} node",
    ("GET", "/healthz"): "anonymous",
    ("GET", "/readyz"): "anonymous",
    ("GET", "/metrics"): "anonymous",
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


async def renew(client: CloudClient, csr: bytes) -> Answer:
    return await client.call("POST", PATH_SIMPLEREENROLL, encode_base64(csr), headers={"Content-Type": TYPE_PKCS10})


async def refused(client: CloudClient, method: str, path: str, body: object = None) -> ProblemDocument:
    with pytest.raises(ProblemAnswer) as caught:
        (await client.call(method, path, body)).into(Certificate)
    return caught.value.problem


async def test_every_route_lists_its_peers(live: Live) -> None:
    found = {(r.method, r.path): " ".join(map(str, r.peers)) for r in routes_of(live.running.api) if r.method != "HEAD"}
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
            renewal = make_csr(device_key)
            (renewed,) = decode_certs_only((await renew(node, renewal)).body)
            assert load(renewed).public_key() == device_key.public_key()
            assert (await renew(node, make_csr(new_key()))).status == 403
            closed = (await fabric.call("POST", PATH_CLOSE, closing())).into(GenerationsClosed)
            assert closed == GenerationsClosed(2)
            # The same connection, the next request.
            with pytest.raises(ProblemAnswer, match="generation_closed"):
                (await renew(node, renewal)).into(Certificate)
        assert (await refused(fabric, "POST", PATH_DEVICE, asked)).code == "generation_closed"
        assert (await refused(fabric, "POST", PATH_OPEN, opening())).code == "conflict"


async def test_callers_that_are_not_admitted(live: Live) -> None:
    key = new_key()
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        body = ask(key, not_after=utc_now() + DAYS_90)
        session = (await fabric.call("POST", PATH_SESSION, body)).into(Certificate)
    async with live.holder(session, key) as node, live.breakwater() as breakwater, live.anonymous() as anonymous:
        for (method, path), peers in PEERS.items():
            if peers == "anonymous":
                continue
            code = "enrolment_refused" if peers == "enrolling" else "peer_required"
            assert (await refused(anonymous, method, path)).code == code
            if "node" not in peers:
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
            await renew(node, make_csr(key))


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


_REFUSALS = Statement("SELECT caller, object, detail FROM audit WHERE outcome = 'refused' ORDER BY at LIMIT 1000")


async def refusals(live: Live) -> list[tuple[str, str, str]]:
    rows = await live.fetch(_REFUSALS)
    return [(row["caller"], row["object"], row["detail"].partition(":")[0]) for row in rows]


async def test_every_refusal_leaves_a_line_and_is_counted(live: Live) -> None:
    async with live.fabric() as fabric, live.anonymous() as anonymous:
        await refused(fabric, "POST", PATH_DEVICE, {"request": "r" * 100_000})
        await refused(fabric, "POST", PATH_DEVICE, None)
        await refused(fabric, "POST", PATH_DEVICE, ask(new_key(), not_after=utc_now() + DAYS_90))
        await refused(anonymous, "POST", PATH_DEVICE, None)
        await refused(anonymous, "GET", "/v1/nothing%00%1b[2J")
        await anonymous.call("GET", "/readyz")
        text = (await anonymous.call("GET", "/metrics")).body.decode()
    assert await refusals(live) == [
        ("service/fabric", f"POST {PATH_DEVICE}", "too_large"),
        ("service/fabric", f"POST {PATH_DEVICE}", "malformed"),
        ("service/fabric", f"POST {PATH_DEVICE}", "generation_closed"),
        ("anonymous", f"POST {PATH_DEVICE}", "peer_required"),
        ("anonymous", "GET /v1/nothing??[2J", "not_found"),
    ]
    assert 'cascade_breakwater_refused_total{code="generation_closed"} 1.0' in text
    assert 'route="/v1/certificates/device"' in text


async def test_strangers_refusals_on_the_plaintext_listener_are_told_too(live: Live) -> None:
    async with httpx.AsyncClient(trust_env=False) as stranger:
        answer = await stranger.get(f"http://127.0.0.1:{live.pki_port}/crl/people-1/1.crl")
    assert answer.status_code == 404
    assert await refusals(live) == [("anonymous", "GET /crl/people-1/1.crl", "not_found")]


async def test_metrics_say_what_the_issuer_did(live: Live) -> None:
    async with live.fabric() as fabric, live.anonymous() as anonymous:
        await fabric.call("POST", PATH_OPEN, opening())
        asked = ask(new_key(), not_after=utc_now() + DAYS_90)
        for _ in range(2):
            await fabric.call("POST", PATH_DEVICE, asked)
        await fabric.call("POST", PATH_CLOSE, closing())
        answer = await anonymous.call("GET", "/metrics")
    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/plain")
    for line in (
        'cascade_breakwater_issued_total{authority="nodes-1",profile="device"} 1.0',
        'cascade_breakwater_repeated_total{profile="device"} 1.0',
        'cascade_breakwater_revoked_total{kind="generation",reason="superseded"} 1.0',
        'cascade_breakwater_signatures{authority="nodes-1"} 1.0',
        "cascade_breakwater_database_up 1.0",
        'cascade_breakwater_records{state="revoked"} 1.0',
    ):
        assert line in text, line
    assert 'cascade_breakwater_authority_expires_seconds{authority="root-1"}' in text
    assert "ten_" not in text
    assert "node_" not in text


async def test_a_new_authority_issues_without_a_restart(live: Live) -> None:
    authorities = live.running.parts.authorities
    before = authorities.peer_trust()
    made = await make_authority(live.home, live.running.parts.keys, "nodes", 2, utc_now())
    await authorities.import_prepared("operator/test", *made)
    await authorities.activate("operator/test", made[0])
    assert authorities.peer_trust() is not before
    async with live.fabric() as fabric:
        await fabric.call("POST", PATH_OPEN, opening())
        answer = await fabric.call("POST", PATH_DEVICE, ask(new_key(), not_after=utc_now() + DAYS_90))
    chain = answer.into(Certificate).certificate_chain
    assert "nodes CA 2" in load(chain[1]).subject.rfc4514_string()
