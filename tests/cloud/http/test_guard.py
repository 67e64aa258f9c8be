"""The guard over real TLS: lists of peers, operators, and headers that have no effect."""

import ast
import asyncio
import base64
from pathlib import Path

import pytest

from cloud.http.guard import ANONYMOUS, ENROLLING, NODE, OPERATOR, Admitted, Credentials, routes_of, service
from tests.cloud.pki import NODE_ID, NODE_URI, Leaf, Pki
from tests.cloud.world import Connection, World, connected

ROOT = Path(__file__).parents[3]
ASKS = ("open", "node", "either", "fabric", "operator", "nobody", "oddly-listed")
CALLERS: dict[str, dict[str, tuple[int, str]]] = {
    "nobody": {
        "open": (200, ""),
        "node": (401, "peer_required"),
        "either": (200, ""),
        "fabric": (401, "peer_required"),
        "operator": (401, "operator_required"),
        "nobody": (403, "peer_refused"),
        "oddly-listed": (403, "peer_refused"),
    },
    "node": {
        "open": (200, ""),
        "node": (200, ""),
        "either": (200, ""),
        "fabric": (403, "peer_refused"),
        "operator": (401, "operator_required"),
        "nobody": (403, "peer_refused"),
        "oddly-listed": (403, "peer_refused"),
    },
    "fabric": {
        "open": (200, ""),
        "node": (403, "peer_refused"),
        "either": (403, "peer_refused"),
        "fabric": (200, ""),
        "operator": (401, "operator_required"),
        "nobody": (403, "peer_refused"),
        "oddly-listed": (403, "peer_refused"),
    },
    "breakwater": {"fabric": (403, "peer_refused"), "node": (403, "peer_refused")},
}
FORGED = {
    "X-Client-Identity": NODE_URI,
    "X-Forwarded-Client-Cert": f"URI={NODE_URI}",
    "X-SSL-Client-Verify": "SUCCESS",
    "X-SSL-Client-S-DN": f"CN={NODE_ID}",
    "X-SSL-Client-Cert": "-----BEGIN CERTIFICATE-----",
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Proto": "https",
    "X-Real-IP": "127.0.0.1",
    "Forwarded": "for=127.0.0.1;proto=https",
    "X-Remote-User": "alice",
    "X-Api-Key": "good",
    "Cookie": "token=good",
}


def leaf_of(pki: Pki, caller: str) -> Leaf | None:
    return {"nobody": None, "node": pki.node()}.get(caller) if caller in {"nobody", "node"} else pki.service(caller)


@pytest.mark.parametrize("caller", CALLERS)
def test_each_list_admits_whom_it_names_and_forged_headers_change_nothing(caller: str) -> None:
    async def test() -> None:
        world = World()
        context = world.client_context(leaf_of(world.pki, caller))
        async with world.serving() as port, connected(port, context) as client:
            for path, (status, code) in CALLERS[caller].items():
                plain = await client.ask(f"/{path}")
                assert plain.status == status, path
                assert not code or plain.problem.code == code, path
                forged = await client.ask(f"/{path}", headers=FORGED)
                assert (forged.status, forged.said) == (plain.status, plain.said), path

    asyncio.run(test())


def test_operators_by_bearer_token_only() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            good = await client.ask("/operator", headers={"Authorization": "Bearer good"})
            assert (good.status, good.body) == (200, b"alice")
            for value in ("Bearer bad", "Bearer ", "Basic good", "good", "Bearer good extra"):
                refused = await client.ask("/operator", headers={"Authorization": value})
                assert (refused.status, refused.problem.code) == (401, "operator_required"), value
                assert refused.headers["www-authenticate"] == "Bearer"
            assert (await client.ask("/node", headers={"Authorization": "Bearer good"})).status == 401

    asyncio.run(test())


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_who_enrols_shows_a_name_and_a_secret_and_no_certificate() -> None:
    async def test() -> None:
        world = World()
        good = {"Authorization": basic("fabric:a:secret")}
        async with world.serving() as port:
            async with connected(port, world.client_context()) as client:
                answer = await client.ask("/enrolling", headers=good)
                assert (answer.status, answer.body) == (200, b"anonymous fabric")
                bad = ["", "Bearer good", "Basic", "Basic !", basic("no colon"), "Basic " + "A" * 600, "Basic /////w=="]
                for value in bad:
                    refused = await client.ask("/enrolling", headers={"Authorization": value} if value else {})
                    assert (refused.status, refused.problem.code) == (401, "enrolment_refused"), value
                    assert refused.headers["www-authenticate"] == 'Basic realm="est"'
            for leaf in (world.pki.node(), world.pki.service("fabric"), world.pki.service("breakwater")):
                async with connected(port, world.client_context(leaf)) as client:
                    refused = await client.ask("/enrolling", headers=good)
                    assert (refused.status, refused.problem.code) == (403, "peer_refused")

    asyncio.run(test())
    assert "a secret" not in repr(Credentials("fabric", "a secret"))


def test_no_other_route_reads_authorization() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            for path in ASKS:
                plain = await client.ask(f"/{path}")
                shown = await client.ask(f"/{path}", headers={"Authorization": basic("fabric:a secret")})
                assert (shown.status, shown.said) == (plain.status, plain.said), path

    asyncio.run(test())
    readers = set()
    for path in (ROOT / "cloud").rglob("*.py"):
        source = path.read_text()
        if "authorization" not in source.lower():
            continue
        texts = {
            node.value.lower()
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if "authorization" in texts:
            readers.add(str(path.relative_to(ROOT)))
    # The client sends the token, and the log withholds it.
    assert readers == {"cloud/http/guard.py", "cloud/mtls/client.py", "cloud/process/logs.py"}


def test_a_refused_caller_s_body_is_not_read_and_methods_are_guarded() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            assert (await client.ask("/nobody", body=b"not json")).problem.code == "peer_refused"
            assert (await client.ask("/node", "OPTIONS")).problem.code == "peer_refused"
            assert (await client.ask("/node", "HEAD")).status == 405

    asyncio.run(test())


def test_who_is_revoked_while_its_body_dribbles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.http.guard.JUDGED_SECONDS", 0.0)

    async def test() -> None:
        world = World()
        leaf = world.pki.service("fabric")
        head = (
            b"POST /fabric-orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
        )
        async with world.serving() as port, connected(port, world.client_context(leaf)) as client:
            for revoked in (False, True):
                world.judged.clear()
                client.writer.write(head + b'{"count"')
                assert (await asyncio.gather(client.answer(), later(world, client, leaf, revoked)))[0].status == (
                    403 if revoked else 200
                )

    async def later(world: World, client: Connection, leaf: Leaf, revoked: bool) -> None:
        async with asyncio.timeout(5):
            await world.judged.wait()
        if revoked:
            world.revoked.add(leaf.certificate.serial_number)
        client.writer.write(b": 3}")

    asyncio.run(test())


def test_routes_are_enumerated_with_their_lists() -> None:
    entries = {entry.path: entry for entry in routes_of(World().app())}
    assert entries["/either"].peers == (NODE, ANONYMOUS)
    assert entries["/fabric"].peers == (service("fabric"),) == (Admitted("service", "fabric"),)
    assert entries["/operator"].peers == (OPERATOR,)
    assert entries["/enrolling"].peers == (ENROLLING,)
    assert entries["/nobody"].peers == entries["/oddly-listed"].peers == ()
    assert (entries["/orders"].method, entries["/things/{number}"].method) == ("POST", "GET")
    assert len(entries) == 15
    assert [str(entry) for entry in (NODE, service("fabric"))] == ["node", "service/fabric"]


def test_without_tls_everyone_is_anonymous() -> None:
    async def test() -> None:
        world = World()
        async with world.serving(tls=False) as port, connected(port, None) as client:
            assert (await client.ask("/open")).status == 200
            assert (await client.ask("/node", headers=FORGED)).problem.code == "peer_required"

    asyncio.run(test())
