"""No header names a caller: every route of every service gives the same answer with and without forged headers.

The test reads the routes from the applications. It sends the request of each route plain, and with every header by
which a proxy, gateway or service mesh forwards an identity. The forged headers name another node, a service and an
operator. The callers are: no client certificate, another node's certificate, and, where the route admits operators, an
operator's token. Status, headers, body and audit rows must be equal, except ids, dates, counters and random bytes.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.http.guard import OPERATOR
from lab.cloud import Cloud
from lab.processes import wait_until
from tests.system.support.routes import RECIPES, Caller, Route, World, all_routes, world_of
from tests.system.support.wire import PLAINTEXT, Answer, once

HEAD_BYTES = 12_000
"""The bytes of forged headers in one request. The listeners accept 16 kB of request head."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, installation: Cloud) -> Iterator[World]:
    with world_of(installation, tmp_path_factory.mktemp("forged")) as made:
        yield made


class Victim:
    """The identity that the forged headers name. Its certificate is the real one, because certificates are public."""

    def __init__(self, world: World) -> None:
        self.leaf, self.issuer = world.victim_session.chain
        self.node = world.victim.node
        certificate = x509.load_der_x509_certificate(self.leaf)
        self.pem = quote(certificate.public_bytes(Encoding.PEM).decode(), safe="")
        self.spiffe = f"spiffe://cascade.internal/tenant/{world.tenant}/node/{self.node}"
        self.service = "spiffe://cascade.internal/service/fabric"
        self.subject = f"CN={self.node},serialNumber=1"
        self.serial = f"{certificate.serial_number:X}"


def proxies_headers(victim: Victim) -> dict[str, str]:
    """The headers in which reverse proxies forward a client certificate."""
    pem, spiffe, subject, serial = victim.pem, victim.spiffe, victim.subject, victim.serial
    colon, chain = (f":{base64.b64encode(der).decode()}:" for der in (victim.leaf, victim.issuer))
    xfcc = f'By={victim.service};Hash={"ab" * 32};Cert="{pem}";Subject="{subject}";URI={spiffe}'
    return {
        "X-Client-Identity": spiffe,
        "X-Forwarded-Client-Cert": xfcc,
        "X-SSL-Client-Cert": pem,
        "X-SSL-Client-Verify": "SUCCESS",
        "X-SSL-Client-S-DN": subject,
        "X-SSL-Client-I-DN": "CN=nodes",
        "X-SSL-Client-CN": victim.node,
        "X-SSL-Client-SAN": f"URI:{spiffe}",
        "X-SSL-Client-Serial": serial,
        "X-SSL-Client-Fingerprint": "ab" * 20,
        "X-SSL-Cert": pem,
        "X-Client-Cert": pem,
        "X-Client-Verify": "SUCCESS",
        "X-Client-DN": subject,
        "X-Client-SAN": spiffe,
        "X-TLS-Client-Cert": pem,
        "X-Forwarded-TLS-Client-Cert": pem,
        "X-Forwarded-TLS-Client-Cert-Info": f'Subject="{subject}";SAN="{spiffe}"',
        "Client-Cert": colon,
        "Client-Cert-Chain": chain,
        "SSL_CLIENT_CERT": pem,
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": subject,
        "SSL_CLIENT_S_DN_CN": victim.node,
        "SSL_CLIENT_SAN_URI_0": spiffe,
        "SSL_CLIENT_M_SERIAL": serial,
    }


def gateways_headers(victim: Victim) -> dict[str, str]:
    """The headers in which cloud platforms, gateways and service meshes forward an identity."""
    pem, spiffe, subject, service = victim.pem, victim.spiffe, victim.subject, victim.service
    leaf = base64.b64encode(victim.leaf).decode()
    return {
        "X-ARR-ClientCert": leaf,
        "X-Amzn-Mtls-Clientcert": pem,
        "X-Amzn-Mtls-Clientcert-Leaf": pem,
        "X-Amzn-Mtls-Clientcert-Subject": subject,
        "X-Amzn-Mtls-Clientcert-Serial-Number": victim.serial,
        "X-Amzn-Mtls-Clientcert-Validity": "NotBefore=2020-01-01T00:00:00Z;NotAfter=2040-01-01T00:00:00Z",
        "X-Client-Cert-SPIFFE": spiffe,
        "X-Client-Cert-URI-SANs": spiffe,
        "X-Client-Cert-Present": "true",
        "X-Client-Cert-Chain-Verified": "true",
        "CF-Client-Cert-DER-Base64": leaf,
        "Cf-Access-Authenticated-User-Email": "root@cascade.internal",
        "X-Goog-Authenticated-User-Email": "root@cascade.internal",
        "X-MS-Client-Principal-Name": "root",
        "X-Envoy-Peer-Metadata-Id": spiffe,
        "X-Envoy-External-Address": "127.0.0.1",
        "X-Envoy-Internal": "true",
        "X-Envoy-Original-Path": "/v1/tenants",
        "X-Spiffe-Id": spiffe,
        "X-SPIFFE-Service": service,
        "L5d-Client-Id": spiffe,
        "X-Consumer-Username": "fabric",
        "X-Credential-Identifier": "fabric",
        # These headers name a service, as the two best known service meshes do.
        "x-forwarded-client-cert-chain": f"By={spiffe};URI={service}",
        "x-client-identity-service": service,
    }


def callers_headers(world: World, spiffe: str) -> dict[str, str]:
    """The headers that name the caller's address, the first request, a user, a token or an identity of Cascade."""
    return {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": "fabric.cascade.internal",
        "X-Forwarded-Port": "443",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Scheme": "https",
        "X-Forwarded-Ssl": "on",
        "X-Forwarded-Server": "fabric",
        "X-Forwarded-Prefix": "/v1",
        "X-Forwarded-User": "root",
        "X-Forwarded-Email": "root@cascade.internal",
        "X-Forwarded-Groups": "operators",
        "X-Forwarded-Preferred-Username": "root",
        "X-Forwarded-Access-Token": world.token,
        "X-Forwarded-Authorization": f"Bearer {world.token}",
        "Forwarded": f'for=127.0.0.1;by={world.victim.node};host=fabric;proto=https;cert="{spiffe}"',
        "Via": "1.1 fabric",
        "X-Real-IP": "127.0.0.1",
        "X-Client-IP": "127.0.0.1",
        "X-Cluster-Client-IP": "127.0.0.1",
        "True-Client-IP": "127.0.0.1",
        "CF-Connecting-IP": "127.0.0.1",
        "X-Original-Method": "GET",
        "X-Original-Host": "fabric.cascade.internal",
        "X-Original-URL": "/v1/tenants",
        "X-Original-URI": "/v1/tenants",
        "X-Original-User": "root",
        "X-Original-Authorization": f"Bearer {world.token}",
        "X-Rewrite-URL": "/v1/tenants",
        "X-HTTP-Method-Override": "DELETE",
        "X-Remote-User": "root",
        "Remote-User": "root",
        "REMOTE_USER": "root",
        "X-WebAuth-User": "root",
        "X-Auth-Request-User": "root",
        "X-Authenticated-User": "root",
        "X-User": "root",
        "X-Api-Key": world.token,
        "X-Auth-Token": world.token,
        "Proxy-Authorization": f"Bearer {world.token}",
        "Cookie": f"session={world.token}; identity={spiffe}",
        "X-Request-Id": "019aee5b-0000-7000-8000-000000000000",
        "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
        "X-Tenant": world.tenant,
        "X-Node": world.victim.node,
        "X-Node-Generation": "1",
        "X-Cascade-Peer": spiffe,
        "X-Cascade-Operator": "root",
    }


def forgeries(world: World) -> dict[str, str]:
    """Each header with its value."""
    victim = Victim(world)
    return proxies_headers(victim) | gateways_headers(victim) | callers_headers(world, victim.spiffe)


def batches(headers: dict[str, str]) -> list[dict[str, str]]:
    """The headers, split into as few requests as `HEAD_BYTES` allows."""
    made: list[dict[str, str]] = [{}]
    for name, value in headers.items():
        if sum(len(n) + len(v) + 4 for n, v in made[-1].items()) + len(name) + len(value) > HEAD_BYTES:
            made.append({})
        made[-1][name] = value
    return made


# The parts of an answer that differ between two equal requests

_ID = re.compile(r"\b(?:ten|node|code|act|tok|aud|cert|rcv|rcc)_[0-9a-z]{26}\b")
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?")
_JWS = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
_RANDOM = {
    "credential_blob",
    "encrypted_secret",
    "nonce",
    "renewal",
    "secret",
    "seq",
    "epoch",
    "statement_sha256",
    "next_cursor",
    "instance",
    "request",
    "woken",
    "done",
}


_CHANGING_HEADERS = {"date", "content-length", "etag", "x-request-id", "ratelimit"}

_AWAITED = {
    # A field of leases. A request of this test makes a renewal order, which reaches the leases some seconds later.
    "renew_device_after",
    # Fields of generations and of the evidence about clones. Fabric stores them up to half a minute after a session.
    "seen_at",
    "drift",
    "evidence",
}
"""Fields of answers that a background task changes later, because of an earlier request."""


class Plain:
    """Replaces ids, dates, counters and random values in an answer. Each known node and the tenant get a fixed name."""

    def __init__(self, world: World) -> None:
        self._names = {
            world.tenant: "<tenant>",
            world.victim.node: "<victim>",
            world.other.node: "<other>",
            world.spare.node: "<spare>",
            world.condemned.node: "<condemned>",
        }

    def text(self, text: str) -> str:
        text = _JWS.sub(lambda token: self._token(token[0]), text)
        text = _ID.sub(lambda found: self._names.get(found[0], "<id>"), text)
        return _DATE.sub("<date>", text)

    def value(self, value: Any, name: str = "") -> Any:
        if name in _RANDOM:
            return "<changing>"
        if isinstance(value, dict):
            return {self.text(key): self.value(item, key) for key, item in value.items() if key not in _AWAITED}
        if isinstance(value, list):
            if name == "items":
                # A list grows with each request that creates an entry, so only the first entry is compared.
                return [self.value(item) for item in value[:1]]
            return [self.value(item, name) for item in value]
        if isinstance(value, str):
            return self._certificate(value) if name == "certificate_chain" else self.text(value)
        return value

    def _token(self, token: str) -> str:
        parts = [json.loads(base64.urlsafe_b64decode(part + "===")) for part in token.split(".")[:2]]
        return json.dumps([self.value(part) for part in parts], sort_keys=True)

    def _certificate(self, text: str) -> str:
        certificate = x509.load_der_x509_certificate(base64.b64decode(text))
        extensions = [
            self.text(str(extension.value))
            for extension in certificate.extensions
            if not isinstance(extension.value, x509.SubjectKeyIdentifier)
        ]
        return f"{self.text(certificate.subject.rfc4514_string())} {extensions}"

    def answer(self, answer: Answer) -> tuple[int, dict[str, str], Any]:
        headers = {name: value for name, value in answer.headers.items() if name not in _CHANGING_HEADERS}
        try:
            return answer.status, headers, self.value(json.loads(answer.body))
        except ValueError:
            return answer.status, headers, _metric_names(answer)


def _metric_names(answer: Answer) -> Any:
    """The names of the metrics in an answer of `/metrics`, whose values change. Other bodies are returned unchanged."""
    if "version=0.0.4" not in answer.headers.get("content-type", ""):
        return answer.body
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return sorted({line.partition(" ")[0].partition("{")[0] for line in lines})


class Observed:
    """The rows that a request adds to the audit of both services and to the certificates."""

    # Breakwater audits only some refusals an hour (tests/cloud/breakwater/test_refusal_audit.py).
    _QUERIES = (
        ("fabric", "SELECT rowid, actor, action, object, tenant, outcome, detail FROM audit WHERE rowid > ?"),
        (
            "breakwater",
            "SELECT rowid, caller, action, tenant, node, generation FROM audit WHERE rowid > ? AND outcome = 'done'",
        ),
        (
            "breakwater",
            "SELECT rowid, caller, profile, state, tenant, node, generation, service FROM certificate WHERE rowid > ?",
        ),
    )

    def __init__(self, world: World, plain: Plain) -> None:
        self._world = world
        self._plain = plain
        self._last = [0, 0, 0]
        self.rows()

    def rows(self) -> list[Any]:
        """The rows added since the last call."""
        found: list[Any] = []
        for index, (service, sql) in enumerate(self._QUERIES):
            rows = self._world.cloud.rows(service, sql, self._last[index])
            if rows:
                self._last[index] = max(int(row[0]) for row in rows)
            found += [
                [self._plain.value(json.loads(v)) if str(v).startswith("{") else self._plain.value(v) for v in row[1:]]
                for row in rows
            ]
        return found


def prepared(world: World, route: Route) -> None:
    """Restore the state that the route's request changes, so that each repetition has the same effect."""
    closing = "SELECT count(*) FROM node WHERE closing"
    wait_until("the closing at Breakwater", lambda: world.cloud.rows("fabric", closing) == [(0,)])
    action = route.entry.path.rpartition("/")[2]
    opposite = {"suspend": "resume", "resume": "suspend"}.get(action)
    if opposite and route.service == "fabric":
        path = f"/v1/nodes/{world.victim.node}/{opposite}"
        token = {"authorization": f"Bearer {world.token}"}
        assert world.wire("fabric", "operator").ask("POST", path, {"reason": ""}, token).status == 200


RELEASE = "fabric POST /v1/node/release"
"""The route that ends the node of the caller "other". It comes last, because later requests of this node are refused."""


def forged_alike(world: World, routes: Iterable[Route]) -> int:
    """Ask each route as each caller, without and with forged headers: the answers and effects are the same.

    Returns the number of requests.
    """
    headers = forgeries(world)
    plain = Plain(world)
    observed = Observed(world, plain)
    sent = 0
    for route in routes:
        callers: list[Caller] = ["anonymous", "other"]
        if OPERATOR in route.entry.peers:
            callers.append("operator")
        if route.service in PLAINTEXT:
            callers.remove("other")  # The listener has no TLS, and so no client certificate.
        for caller in callers:
            # The first request is not compared, because it may create or end an object. The later ones find the result.
            seen: list[tuple[tuple[int, dict[str, str], Any], list[Any]]] = []
            for forged in ({}, {}, *batches(headers)):
                prepared(world, route)
                observed.rows()
                answer = world.ask(route, caller, forged)
                seen.append((plain.answer(answer), observed.rows()))
                sent += 1
            status = seen[1][0][0]
            assert status < 500, route.name
            assert status != 404, route.name
            assert all(one == seen[1] for one in seen[2:]), f"{route.name} as {caller}: {seen[1:]}"
            if not {"anonymous", caller if caller == "operator" else "node"} & {p.kind for p in route.entry.peers}:
                assert status in (401, 403), f"{route.name} as {caller}: {status}"
    return sent


@pytest.mark.long(8, "test_forged_headers.py")
def test_every_route_ignores_all_forged_headers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    routes = all_routes()
    assert {route.name for route in routes} == set(RECIPES), (
        "RECIPES of tests/system/support/routes.py must name every route"
    )
    assert len(routes) == len(RECIPES)
    sent = forged_alike(world, (route for route in routes if route.name != RELEASE))
    with capsys.disabled():  # The figures are part of the proof.
        print(f"\n  {len(routes)} routes, {len(forgeries(world))} forged headers, {sent} requests", end="")  # noqa: T201


def woken(world: World) -> bool:
    """Whether every renewal order has woken all its nodes."""
    orders = world.cloud.rows("fabric", "SELECT value FROM installation WHERE name = 'renew_devices'")
    return all(json.loads(order)["done"] for (order,) in orders)


@pytest.mark.parametrize("name", [
    "fabric GET /v1/node/events",
    "fabric POST /v1/node/statement",
    "fabric GET /v1/tenants",
    "fabric GET /v1/changes",
    "breakwater POST /v1/generations/open",
])  # fmt: skip
def test_chosen_routes_ignore_each_header_sent_alone(world: World, name: str) -> None:
    # A renewal order of the test before moves the nodes' cursors some seconds later.
    wait_until("the end of the renewal order", lambda: woken(world))
    (route,) = (route for route in all_routes() if route.name == name)
    plain = Plain(world)
    callers: tuple[Caller, Caller] = ("anonymous", "other")
    for caller in callers:
        unforged = plain.answer(world.ask(route, caller))
        for header, value in forgeries(world).items():
            for spelt in (header, header.lower().replace("-", "_")):
                assert plain.answer(world.ask(route, caller, {spelt: value})) == unforged, (caller, spelt)


def test_the_comparison_distinguishes_two_callers(world: World) -> None:
    plain = Plain(world)
    path, body = "/v1/node/statement", {"nonce": "n" * 32}
    ours = once(world.cloud, "fabric", "POST", path, body, world.session)
    theirs = once(world.cloud, "fabric", "POST", path, body, world.victim_session)
    assert ours.status == theirs.status == 200
    assert plain.answer(ours) != plain.answer(theirs)
    assert plain.answer(ours) == plain.answer(once(world.cloud, "fabric", "POST", path, body, world.session))


def test_the_release_of_a_node_ignores_all_forged_headers(world: World) -> None:
    (route,) = (route for route in all_routes() if route.name == RELEASE)
    assert forged_alike(world, [route])
    assert world.cloud.rows("fabric", "SELECT count(*) FROM audit WHERE action = 'node.release'") == [(1,)]
