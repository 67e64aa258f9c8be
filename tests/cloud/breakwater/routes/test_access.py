"""`cloud.breakwater.routes.access`: the peers that each route admits over real mTLS, and the callers' names."""

import pytest

from cloud.clock import utc_now
from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_DEVICE,
    PATH_GENERATIONS,
    PATH_OPEN,
    PATH_SESSION,
    PATH_SUPERSEDE_KEYS,
)
from cloud.contracts.events import PATH_CHANGES, PATH_SNAPSHOT
from cloud.http.guard import routes_of
from cloud.mtls.client import Unreachable
from cloud.mtls.identity import make_csr
from protocol.messages.est import (
    PATH_CACERTS,
    PATH_CSRATTRS,
    PATH_SIMPLEENROLL,
    PATH_SIMPLEREENROLL,
)
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.routes.calls import DAYS_90, refused, renew
from tests.cloud.breakwater.support import ask, new_key, opening

pytestmark = pytest.mark.slow

SERVICES = "service/fabric service/breakwater service/ledger service/headwaters service/conduit service/weir"
PEERS = {
    ("POST", PATH_OPEN): "service/fabric",
    ("POST", PATH_CLOSE): "service/fabric",
    ("POST", PATH_CLOSE_ONE): "service/fabric",
    ("POST", PATH_SUPERSEDE_KEYS): "service/fabric",
    ("GET", PATH_GENERATIONS): "service/fabric",
    ("POST", PATH_DEVICE): "service/fabric",
    ("POST", PATH_SESSION): "service/fabric",
    ("GET", PATH_CHANGES): SERVICES,
    ("GET", PATH_SNAPSHOT): SERVICES,
    ("GET", PATH_CACERTS): "anonymous",
    ("GET", PATH_CSRATTRS): "anonymous",
    ("POST", PATH_SIMPLEENROLL): "enrolling",
    ("POST", PATH_SIMPLEREENROLL): f"{SERVICES} node",
    ("GET", "/healthz"): "anonymous",
    ("GET", "/readyz"): "anonymous",
}


async def test_every_route_lists_its_peers(live: Live) -> None:
    found = {(r.method, r.path): " ".join(map(str, r.peers)) for r in routes_of(live.running.api) if r.method != "HEAD"}
    assert found == PEERS
    entries = [*routes_of(live.running.api), *routes_of(live.running.public)]
    assert [entry.path for entry in entries if entry.bucket is None] == []
    # A service's order is caused by a caller that was admitted. Every other caller has a limit.
    unlimited = {entry.path for entry in entries if entry.bucket is not None and entry.bucket.each is None}
    assert unlimited == {path for (_, path), peers in PEERS.items() if set(peers.split()) <= set(SERVICES.split())}


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
