"""`cloud.fabric.app`: Fabric and Breakwater in one process over mutual TLS. Routes, guard, tasks, shutdown."""

import asyncio
import shutil
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from cloud.contracts.events import PATH_CHANGES, PATH_SNAPSHOT, Changes
from cloud.fabric import schemas
from cloud.fabric.app import opened
from cloud.fabric.settings import FabricSettings
from cloud.http.guard import ANONYMOUS, NODE, OPERATOR, Admitted, routes_of, service
from cloud.mtls.identity import load_identity
from cloud.process.serve import task_name
from cloud.process.settings import load_settings
from protocol.ids import SERVICE_NAMES
from protocol.messages.renewal import PATH_RENEWALS
from protocol.messages.sessions import (
    Ask,
    Events,
    StatementAnswer,
)
from protocol.messages.software import PATH_SOFTWARE_RENEWALS
from protocol.signed.statements import Lease, Revocation, verify_statement
from tests.cloud.breakwater.support import TRUST_DOMAIN
from tests.cloud.fabric.support import ALICE, NONCE, waiters_in
from tests.cloud.fabric.wire import Cloud, Remote, make_code, problem
from tests.cloud.world import connected, listening, port_of, unit_of
from tests.waiting import until

pytestmark = pytest.mark.slow


NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, because the certificates of `home` are valid on the day of the test clock."""


async def test_a_life_over_the_wire(cloud: Cloud) -> None:
    _, code = await make_code(cloud)
    ring = await cloud.ring()
    remote = Remote(cloud)
    activated = await remote.activate(code.secret)
    session, node = await remote.connect()
    assert session.current.statement == ""
    assert (await problem(node, "POST", "/v1/node/statement", Ask(NONCE))).code == "conflict"
    answer = (await node.call("POST", "/v1/node/confirm", Ask(NONCE))).into(StatementAnswer)
    assert isinstance(remote.verified(answer.statement, answer.freshness, ring), Lease)
    cursor = (await node.call("GET", "/v1/node/events?cursor=0&wait=30")).into(Events).cursor
    poll = asyncio.create_task(node.call("GET", f"/v1/node/events?cursor={cursor}&wait=30", seconds=40))
    await until("the poll", lambda: waiters_in(cloud.fabric.parts.shared.wake_room) == 1)
    began = asyncio.get_running_loop().time()
    operator = cloud.operator()
    path = f"/v1/nodes/{activated.node}"
    shown = (await operator.call("POST", f"{path}/revoke", schemas.ChangeStanding("stolen"))).into(schemas.Node)
    assert shown.standing == "revoked"
    await poll
    assert asyncio.get_running_loop().time() - began < 1
    refused = await problem(node, "POST", "/v1/node/statement", Ask(NONCE))
    assert refused.code == "generation_closed"
    revocation = verify_statement(refused.statement, ring, TRUST_DOMAIN).statement
    assert isinstance(revocation, Revocation)
    body, _ = await remote.ask_for_session()
    refused = await problem(cloud.client(), "POST", "/v1/node/sessions", body)
    assert remote.verified(refused.statement, refused.freshness, ring) == revocation

    async def closed() -> bool:
        return not (await operator.call("GET", path)).into(schemas.NodeDetail).node.closing

    await until("the closing at the issuer", closed)
    actions = (await operator.call("GET", f"/v1/audit?object={activated.node}")).into(schemas.Page[schemas.AuditEntry])
    assert {entry.action for entry in actions.items} == {
        "activation.proved",
        "activation.issued",
        "activation.confirmed",
        "node.revoke",
        "revocation.delivered",
        "generation.closed_at_issuer",
    }
    assert code.secret not in str(actions)


async def test_a_shutdown_ends_long_polls(cloud: Cloud) -> None:
    _, code = await make_code(cloud)
    remote = Remote(cloud)
    await remote.activate(code.secret)
    _, node = await remote.connect()
    await node.call("POST", "/v1/node/confirm", Ask(NONCE))
    cursor = (await node.call("GET", "/v1/node/events?cursor=0&wait=0")).into(Events).cursor
    poll = asyncio.create_task(node.call("GET", f"/v1/node/events?cursor={cursor}&wait=200", seconds=250))
    await until("the poll", lambda: waiters_in(cloud.fabric.parts.shared.wake_room) == 1)
    cloud.stopping.request()
    async with asyncio.timeout(2):
        assert (await poll).into(Events).cursor == cursor


async def test_breakwater_reads_the_events_of_fabric_and_an_operator_does_not(cloud: Cloud) -> None:
    identity = load_identity(cloud.directory / "breakwater" / "tls", cloud.directory / "passphrase")
    answer = await cloud.client(chain=identity.chain_pem, key=identity.key).call("GET", f"{PATH_CHANGES}?wait=0")
    assert answer.into(Changes).cursor.startswith("fabric.")
    assert (await problem(cloud.operator(), "GET", PATH_SNAPSHOT)).code == "peer_required"


async def test_breakwaters_certificate_is_learned_again_after_every_reconnect(cloud: Cloud) -> None:
    connections = cloud.fabric.connections
    for _ in range(3):
        before = connections.client._context
        await connections.trust_changed()
        assert connections.client._context is not before
        await until("Breakwater's certificate", lambda: "breakwater" in connections.service_certificates())


ANONYMOUS_ACTIVATIONS = [
    (f"/v1/{kind}{path}", "POST")
    for kind in ("activations", "software-activations")
    for path in ("", "/{activation}/proof")
]
"""The rest of the routes about activations is for operators, who approve them."""


async def test_every_route_names_the_peers_it_admits(cloud: Cloud) -> None:
    routes = list(routes_of(cloud.fabric.api))
    for route in routes:
        wanted: tuple[Admitted, ...] = (OPERATOR,)
        if (
            route.path in ("/healthz", "/readyz", "/v1/node/nonces", "/v1/node/sessions")
            or (route.path, route.method) in ANONYMOUS_ACTIVATIONS
            or route.path.startswith((PATH_RENEWALS, PATH_SOFTWARE_RENEWALS))
        ):
            wanted = (ANONYMOUS,)
        elif route.path.startswith("/v1/node/"):
            wanted = (NODE,)
        elif route.path in (PATH_CHANGES, PATH_SNAPSHOT):
            wanted = tuple(service(name) for name in SERVICE_NAMES)
        assert route.peers == wanted, route.path
        assert route.bucket is not None, route.path
    assert routes
    assert all(route.bucket is not None for route in routes_of(cloud.fabric.repository))
    assert {route.peers for route in routes_of(cloud.fabric.repository)} == {(ANONYMOUS,)}


TASKS = [
    "Background.run",
    "end_polls",
    "Doorbell.run",
    "Follower.run",
    "Follower.run",
    "Connections.prune_revoked",
    "Connections.learn_breakwater_certificate",
    "IdentityRenewal.run",
    "Sequencer.run",
    "ChangeFeed.close_at_stop",
    "events purge",
    "first events",
]
"""Without one of these tasks Fabric serves requests, and its state goes stale with no error."""


async def test_two_fabrics_listen_in_one_process_each_with_its_own_database(home: Path, tmp_path: Path) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(str(home / "fabric" / "certs" / "root.pem"))
    client.verify_flags |= NO_CHECK_TIME
    async with AsyncExitStack() as stack:
        clients, tokens = [], []
        for name in ("one", "other"):
            shutil.copytree(home, tmp_path / name)
            settings = load_settings(tmp_path / name / "fabric" / "settings.toml", FabricSettings)
            fabric = await stack.enter_async_context(opened(settings))
            assert [task_name(task) for task in fabric.served.tasks] == TASKS
            servers = await stack.enter_async_context(listening(unit_of(*fabric.served.listeners)))
            clients.append(await stack.enter_async_context(connected(port_of(servers[0]), client)))
            made = await fabric.parts.operators.tokens.create(ALICE, schemas.CreateToken(name))
            await fabric.parts.operators.tenants.create(ALICE, schemas.CreateTenant(f"of {name}"))
            tokens.append({"authorization": f"Bearer {made.secret}"})
        asked = [each.ask("/v1/tenants", headers=token) for each, token in zip(clients, tokens, strict=True)]
        for answer, name in zip(await asyncio.gather(*asked), ("one", "other"), strict=True):
            page = msgspec.json.decode(answer.body, type=schemas.Page[schemas.Tenant])
            assert [tenant.name for tenant in page.items] == [f"of {name}"]
        for each, token in zip(clients, reversed(tokens), strict=True):
            assert (await each.ask("/v1/tenants", headers=token)).problem.code == "operator_required"
