"""Every route of every service, read from the applications themselves, with a valid request for each.

`RECIPES` names exactly the routes that the applications have. A new route without a recipe fails the tests that walk
them.
"""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Literal, cast
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from cloud.breakwater import app as breakwater_app
from cloud.breakwater import parts as breakwater_parts
from cloud.clock import utc_now
from cloud.fabric import app as fabric_app
from cloud.fabric import parts as fabric_parts
from cloud.fabric.schemas import PublishTrust
from cloud.http.conditions import CHANGING
from cloud.http.guard import NODE, OPERATOR, Guard, RouteEntry, routes_of
from cloud.http.metrics import Metrics
from cloud.mtls.peer import PeerChecks, PeerTrust
from lab.cloud import Cloud
from lab.processes import ended, wait_until
from protocol.messages.activation import AwaitedApproval, Challenge, StartActivation
from protocol.messages.est import TYPE_PKCS10, encode_base64
from protocol.messages.recovery import RecoveryClaim
from protocol.messages.renewal import PATH_RENEWALS, RenewalChallenge, Renewed, StartRenewal, path_proof
from protocol.messages.sessions import Ask
from protocol.messages.software import RenewSoftware, StartSoftwareActivation
from tests.cloud.fabric.software_machine import spki_of
from tests.simulators.forged_evidence import maker, p256, request
from tests.system.support.harness import new_cloud
from tests.system.support.paper_node import PaperNode, paper_tenant, secret_of
from tests.system.support.software_node import SoftwareNode
from tests.system.support.wire import Answer, Identity, Service, Wire, new_key, once, request_id, service_identity

OCSP_REQUEST = (
    ocsp.OCSPRequestBuilder()
    .add_certificate_by_hash(bytes(20), bytes(20), 1, hashes.SHA1())  # noqa: S303  OCSP clients name issuers by SHA-1
    .build()
    .public_bytes(Encoding.DER)
)
"""A question about an unknown certificate."""

Caller = Literal["anonymous", "other", "operator", "fabric"]


class Route(msgspec.Struct, frozen=True):
    service: Service
    entry: RouteEntry

    @property
    def name(self) -> str:
        return f"{self.service} {self.entry.method} {self.entry.path}"

    @property
    def rightful(self) -> Caller:
        """A caller that the route admits."""
        if OPERATOR in self.entry.peers:
            return "operator"
        if NODE in self.entry.peers:
            return "other"
        return "fabric" if any(peer.kind == "service" for peer in self.entry.peers) else "anonymous"


@cache
def all_routes() -> tuple[Route, ...]:
    """Every route, as the services' wiring makes it."""
    # No client calls these applications, so they have routes and no parts.
    guard = Guard(trust=lambda: PeerTrust("", (), ()), checks=cast(PeerChecks, None), now=utc_now)
    fabric, breakwater = dict.fromkeys(fabric_parts.SERVICES), dict.fromkeys(breakwater_parts.SERVICES)
    return (
        *(Route("fabric", entry) for entry in routes_of(fabric_app.make_api(guard, fabric))),
        *(Route("repository", entry) for entry in routes_of(fabric_app.make_repository(guard, fabric))),
        *(
            Route("breakwater", entry)
            for entry in routes_of(breakwater_app.make_api(guard, breakwater, Metrics("breakwater")))
        ),
        *(Route("pki", entry) for entry in routes_of(breakwater_app.make_public(guard, breakwater))),
    )


class World:
    """A running cloud with nodes and objects for valid requests, and one connection for each caller and service."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self.cloud = cloud
        self.tenant = paper_tenant(cloud, directory)
        self.code = secret_of(cloud.code(self.tenant, "--seats", "50"))
        self.victim, self.other, self.spare, self.condemned = (
            PaperNode(cloud, label).join(self.code) for label in ("victim", "other", "spare", "condemned")
        )
        self.session = self.other.session()
        self.victim_session = self.victim.session()
        self.fabric = service_identity(cloud, "fabric")
        self.token = (cloud.directory / "operator" / "token").read_text().strip()
        self._code_id = str(cloud.run("code", "create", self.tenant, "--out", str(directory / "spare"))["code"]["id"])
        self._token_id = str(cloud.run("token", "create", "spare", "--out", str(directory / "token"))["token"]["id"])
        issued = cloud.run("recovery", "codes", "issue", "--tenant", self.tenant, "--out", str(directory / "recovery"))
        self._recovery_code_id = str(issued["codes"][0]["id"])
        self._case = self._waiting_case()
        self._challenge = self.spare.start(self.code).into(Challenge)
        self._proof = self.spare.proof(self._challenge)
        body = StartRenewal(self.spare.device, self.spare.evidence(), "1.0")
        self._renewing = once(cloud, "fabric", "POST", PATH_RENEWALS, body).into(RenewalChallenge)
        self._renewal_proof = self.spare.prove_renewal(self._renewing, p256("renewed"))
        once(cloud, "fabric", "POST", path_proof(self._renewing.renewal), self._renewal_proof).into(Renewed)
        states = "SELECT state FROM renewal"
        wait_until("the revocation of the old key's certificates", lambda: cloud.rows("fabric", states) == [("done",)])
        self.carried = self.other.carried()
        self._renewal = encode_base64(request(self.other.node_key))
        software = str(cloud.run("tenant", "create", "without TPMs")["id"])
        cloud.run("tenant", "tiers", software, "software")
        self._software_code = secret_of(cloud.code(software, "--seats", "5"))
        self._software = SoftwareNode(cloud)
        self._software_activation, self._software_proof = self._software.start(self._software_code)
        self._wires: dict[tuple[Service, Caller], Wire] = {}

    def _waiting_case(self) -> str:
        """The recovery case of another machine that asks for the victim's node, and waits."""
        lost = PaperNode(self.cloud, "lost")
        claim = RecoveryClaim(node=self.victim.node, situation="hardware-replaced")
        start = StartActivation("", lost.evidence(), "1.0", claim)
        challenge = once(self.cloud, "fabric", "POST", "/v1/activations", start).into(Challenge)
        awaited = lost.prove(challenge, lost.proof(challenge)).into(AwaitedApproval).recovery
        assert awaited is not msgspec.UNSET
        return awaited.case

    def identity(self, caller: Caller) -> Identity | None:
        return {"other": self.session, "fabric": self.fabric}.get(caller)

    def wire(self, service: Service, caller: Caller) -> Wire:
        if (service, caller) not in self._wires:
            self._wires[service, caller] = Wire(self.cloud, service, self.identity(caller))
        return self._wires[service, caller]

    def close(self) -> None:
        for connection in self._wires.values():
            connection.__exit__()

    def forget(self) -> None:
        """Forget the connections after a restart of the cloud."""
        self._wires.clear()

    def path(self, route: Route) -> str:
        """The route's path for the victim. A route that revokes or releases gets an object that no other route uses."""
        path = route.entry.path
        ends = path.endswith(("/revoke", "/release")) and "{node}" in path
        values = {
            "{tenant}": self.tenant,
            "{node}": self.condemned.node if ends else self.victim.node,
            "{code}": self._recovery_code_id if "/recovery/" in path else self._code_id,
            "{token}": self._token_id,
            "{sha256}": "ab" * 32,
            "{case}": self._case,
            "{activation}": self._software_activation if "software" in path else self._challenge.activation,
            "{renewal}": self._renewing.renewal,
            "{authority}": "nodes-1",
            "{file}": "1.crl" if "/crl/" in path else "nodes-1.cer",
            "{encoded}": quote(base64.b64encode(OCSP_REQUEST).decode(), safe=""),
            "{name}": "timestamp.json" if "metadata" in path else self._target(),
        }
        for name, value in values.items():
            path = path.replace(name, value)
        return path + ("?cursor=0&wait=0" if path.endswith("/events") else "")

    def _target(self) -> str:
        return str(self.cloud.rows("fabric", "SELECT id FROM tuf_target LIMIT 1")[0][0])

    def body(self, route: Route) -> object:
        return RECIPES[route.name](self)

    def ask(
        self,
        route: Route,
        caller: Caller,
        headers: dict[str, str] | None = None,
        body: object = None,
        media_type: str = "",
        query: str = "",
    ) -> Answer:
        """Send the route's request, or one with another body or query. Forgets a connection that the service closes."""
        media_type = media_type or _media_type(route)
        sent = dict(headers or {})
        if caller == "operator":
            sent["authorization"] = f"Bearer {self.token}"
        content = self.body(route) if body is None else body
        if route.entry.method in CHANGING and "if-match" not in sent:
            sent["if-match"] = self.tag(route)
        path = f"{self.path(route).partition('?')[0]}?{query}" if query else self.path(route)
        answer = self.wire(route.service, caller).ask(route.entry.method, path, content, sent, media_type)
        if answer.headers.get("connection") == "close":
            self._wires.pop((route.service, caller)).__exit__()
        return answer

    def tag(self, route: Route) -> str:
        """The ETag of the object that a route changes. It is read at the route's path, or at the next one above."""
        path = route.entry.path
        while f"{route.service} GET {path}" not in RECIPES:
            path = path.rpartition("/")[0]
        (reading,) = (each for each in all_routes() if each.name == f"{route.service} GET {path}")
        return self.ask(reading, "operator").headers["etag"]

    def of_generation(self, **more: object) -> dict[str, object]:
        return {"tenant": self.tenant, "node": self.victim.node, **more}

    def order(self) -> dict[str, object]:
        return self.of_generation(
            request=request_id(), generation=1, csr=request(new_key()), not_after="2034-01-01T00:00:00Z"
        )

    def proof(self) -> object:
        """The same proof of an activation each time."""
        return self._proof

    def published_trust(self) -> object:
        """The trust that is already published."""
        newest = "SELECT data FROM tuf_metadata WHERE role = 'targets' ORDER BY version DESC LIMIT 1"
        return PublishTrust(targets=bytes(self.cloud.rows("fabric", newest)[0][0]))

    def start(self) -> object:
        return StartActivation(self.code, self.spare.evidence(), "1.0")

    def start_software(self) -> object:
        return StartSoftwareActivation(self._software_code, spki_of(self._software.key), "1.0")

    def prove_software(self) -> object:
        """The same proof of a software activation each time."""
        return self._software_proof

    def renew_software(self) -> object:
        """A request that is refused, because the node has a TPM."""
        return RenewSoftware(self.victim.device, request(new_key()), "a.b.c")

    def start_renewal(self) -> object:
        """A request that is refused, because accepted ones are limited for each node and minute."""
        return StartRenewal(self.victim_session.chain[0], self.spare.evidence(), "1.0")

    def renewal_proof(self) -> object:
        """The same proof of a renewal each time."""
        return self._renewal_proof

    def recovery_codes(self) -> object:
        return {"tenant": self.tenant, "expires_at": utc_now() + timedelta(days=30)}

    def renewal(self) -> object:
        """The same renewal request each time. It gets one certificate."""
        return self._renewal


def _media_type(route: Route) -> str:
    if route.service == "pki":
        return "application/ocsp-request"
    return TYPE_PKCS10 if "/est/" in route.entry.path else "application/json"


def _nothing(_: World) -> object:
    return None


def _reason(_: World) -> object:
    return {"reason": "a test"}


def _code(_: World) -> object:
    return {"profile": "p", "expires_at": "2034-01-01T00:00:00Z", "entitlements": ["vision"], "seats": 1}


RECIPES: dict[str, Callable[[World], object]] = {
    "fabric POST /v1/activations": World.start,
    "fabric POST /v1/activations/{activation}/proof": World.proof,
    "fabric GET /v1/activations": _nothing,
    "fabric GET /v1/activations/{activation}": _nothing,
    "fabric POST /v1/activations/{activation}/approve": _reason,
    "fabric POST /v1/activations/{activation}/deny": _reason,
    "fabric POST /v1/activations/{activation}/lift": _reason,
    "fabric POST /v1/software-activations": World.start_software,
    "fabric POST /v1/software-activations/{activation}/proof": World.prove_software,
    "fabric POST /v1/node/software-renewals": World.renew_software,
    "fabric POST /v1/node/nonces": _nothing,
    "fabric POST /v1/node/sessions": lambda world: world.other.open_session(request(new_key())),
    "fabric POST /v1/node/renewals": World.start_renewal,
    "fabric POST /v1/node/renewals/{renewal}/proof": World.renewal_proof,
    "fabric POST /v1/node/confirm": lambda _: Ask("n" * 32),
    "fabric POST /v1/node/statement": lambda _: Ask("n" * 32),
    "fabric POST /v1/node/release": lambda _: Ask("n" * 32),
    "fabric GET /v1/node/events": _nothing,
    "fabric POST /v1/airgap/answers": lambda world: {"request": world.carried},
    "fabric GET /v1/airgap/exchanges": _nothing,
    "fabric POST /v1/tenants": lambda _: {"name": "another"},
    "fabric GET /v1/tenants": _nothing,
    "fabric GET /v1/tenants/{tenant}": _nothing,
    "fabric GET /v1/tenants/{tenant}/trust": _nothing,
    "fabric POST /v1/tenants/{tenant}/trust/ek-roots": lambda _: {"pem": maker().root.pem.decode()},
    "fabric POST /v1/tenants/{tenant}/trust/ek-allowed": lambda _: {"ek_name": "000b" + "ab" * 32},
    "fabric PUT /v1/tenants/{tenant}/trust/tiers": lambda _: {"tiers": ["attested"]},
    "fabric POST /v1/tenants/{tenant}/trust/ek-allowed/import": lambda _: {"eks": ["spki:" + "ab" * 32]},
    "fabric GET /v1/tenants/{tenant}/trust/ek-allowed": _nothing,
    "fabric POST /v1/tenants/{tenant}/trust/ek-allowed/remove": lambda _: {"ek": "spki:" + "cd" * 32},
    "fabric POST /v1/tenants/{tenant}/trust/ek-roots/{sha256}/remove": _nothing,
    "fabric PUT /v1/tenants/{tenant}/trust/approval": lambda _: {"tiers": ["software"]},
    "fabric PUT /v1/tenants/{tenant}/trust/lease": lambda _: {"tier": "software", "lease": None},
    "fabric PUT /v1/tenants/{tenant}/trust/pcr-policy": lambda _: {"policy": "report"},
    "fabric POST /v1/tenants/{tenant}/codes": _code,
    "fabric GET /v1/tenants/{tenant}/codes": _nothing,
    "fabric POST /v1/codes/{code}/revoke": _nothing,
    "fabric GET /v1/nodes": _nothing,
    "fabric GET /v1/nodes/{node}": _nothing,
    "fabric POST /v1/nodes/{node}/suspend": _reason,
    "fabric POST /v1/nodes/{node}/resume": _reason,
    "fabric POST /v1/nodes/{node}/revoke": _reason,
    "fabric POST /v1/nodes/{node}/release": _reason,
    "fabric POST /v1/nodes/{node}/accept-pcrs": lambda _: {"values": []},
    "fabric GET /v1/clones": _nothing,
    "fabric GET /v1/nodes/{node}/clones": _nothing,
    "fabric POST /v1/nodes/{node}/settle": lambda _: {"keep": "0badcafe"},
    "fabric PUT /v1/tenants/{tenant}/clone-policy": lambda _: {"policy": "newest-in-grace"},
    "fabric GET /v1/recovery/cases": _nothing,
    "fabric GET /v1/recovery/cases/{case}": _nothing,
    "fabric POST /v1/recovery/cases/{case}/approve": _reason,
    "fabric POST /v1/recovery/cases/{case}/deny": _reason,
    "fabric GET /v1/recovery/codes": _nothing,
    "fabric POST /v1/recovery/codes": World.recovery_codes,
    "fabric POST /v1/recovery/codes/{code}/revoke": _nothing,
    "fabric GET /v1/tenants/{tenant}/recovery-policy": _nothing,
    "fabric PUT /v1/tenants/{tenant}/recovery-policy": lambda _: {"grace_quota": 0},
    "fabric POST /v1/reconcile": lambda _: {"dry_run": True},
    "fabric GET /v1/holds": _nothing,
    "fabric POST /v1/nodes/{node}/accept": lambda _: {"state": "conflicting"},
    "fabric GET /v1/rebuild": _nothing,
    "fabric POST /v1/rebuild/begin": _reason,
    "fabric POST /v1/rebuild/end": _reason,
    "fabric POST /v1/rebuild/closed": lambda _: {"serials": ["0badcafe"]},
    "fabric POST /v1/tokens": lambda _: {"name": "another"},
    "fabric GET /v1/tokens": _nothing,
    "fabric POST /v1/tokens/{token}/revoke": _nothing,
    "fabric GET /v1/audit": _nothing,
    "fabric GET /v1/trust": _nothing,
    "fabric POST /v1/trust/targets": World.published_trust,
    "fabric GET /v1/trust/adoption": _nothing,
    "fabric GET /v1/trust/adoption/nodes": _nothing,
    "fabric POST /v1/trust/renew-devices": lambda _: {"after": "2026-01-01T00:00:00Z", "reason": "a test"},
    "fabric GET /v1/changes": _nothing,
    "fabric GET /v1/snapshot": _nothing,
    "fabric GET /healthz": _nothing,
    "fabric GET /readyz": _nothing,
    "fabric GET /schema": _nothing,
    "repository GET /tuf/metadata/{name}": _nothing,
    "repository GET /tuf/targets/{name}": _nothing,
    "repository GET /healthz": _nothing,
    "breakwater GET /v1/generations": _nothing,
    "breakwater POST /v1/generations/open": lambda world: world.of_generation(generation=1),
    "breakwater POST /v1/generations/close": lambda world: world.of_generation(up_to=1),
    "breakwater POST /v1/generations/close-one": lambda world: world.of_generation(generation=9),
    "breakwater POST /v1/generations/supersede-keys": lambda world: world.of_generation(
        generation=1, spki_sha256="0" * 64
    ),
    "breakwater POST /v1/certificates/device": World.order,
    "breakwater POST /v1/certificates/session": World.order,
    "breakwater GET /.well-known/est/cacerts": _nothing,
    "breakwater GET /.well-known/est/csrattrs": _nothing,
    "breakwater POST /.well-known/est/simpleenroll": lambda _: encode_base64(request(new_key())),
    "breakwater POST /.well-known/est/simplereenroll": World.renewal,
    "breakwater GET /v1/changes": _nothing,
    "breakwater GET /v1/snapshot": _nothing,
    "breakwater GET /healthz": _nothing,
    "breakwater GET /readyz": _nothing,
    "pki GET /crl/{authority}/{file}": _nothing,
    "pki HEAD /crl/{authority}/{file}": _nothing,
    "pki GET /ca/{file}": _nothing,
    "pki HEAD /ca/{file}": _nothing,
    "pki POST /ocsp": lambda _: OCSP_REQUEST,
    "pki GET /ocsp/{encoded}": _nothing,
    "pki HEAD /ocsp/{encoded}": _nothing,
    "pki GET /healthz": _nothing,
}


@contextmanager
def world_of(installation: Cloud, directory: Path) -> Iterator[World]:
    """A running copy of the installation with its `World`, until the end of the block.

    Its limits by caller are raised, because each refusal of a walk over the routes would be delayed by a second.
    """
    cloud = new_cloud(directory).copy_from(installation)
    for service in ("breakwater", "fabric"):
        settings = cloud.directory / service / "settings.toml"
        settings.write_text(f"{settings.read_text()}\n[admission]\nfactor = 1000\n")
    with ended(cloud):
        cloud.up()
        world = World(cloud, directory)
        try:
            yield world
        finally:
            world.close()
