"""Every route of every service, out of the applications themselves, with a good request for each.

`RECIPES` must name exactly the routes that the applications have: a new route without a recipe fails the tests that
walk them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from cloud.breakwater.app import wire
from cloud.breakwater.settings import BreakwaterSettings
from cloud.fabric.app import Fabric
from cloud.fabric.settings import FabricSettings
from cloud.guard import NODE, OPERATOR, RouteEntry, routes_of
from cloud.settings import load_settings
from protocol.activation import Challenge, StartActivation
from protocol.sessions import Ask, RenewDevice
from tests.simulators.forged_evidence import maker, request
from tests.system.harness import Cloud, ended
from tests.system.raw import (
    Answer,
    Identity,
    PaperNode,
    Service,
    Wire,
    new_key,
    paper_tenant,
    request_id,
    secret_of,
    service_identity,
)

Caller = Literal["nobody", "other", "operator", "fabric"]


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
        return "fabric" if any(peer.kind == "service" for peer in self.entry.peers) else "nobody"


def all_routes(cloud: Cloud) -> list[Route]:
    """As the services' own wiring makes them."""
    fabric = Fabric(load_settings(cloud.directory / "fabric" / "settings.toml", FabricSettings))
    breakwater = wire(load_settings(cloud.directory / "breakwater" / "settings.toml", BreakwaterSettings))
    return [
        *(Route("fabric", entry) for entry in routes_of(fabric.app)),
        *(Route("repository", entry) for entry in routes_of(fabric.repository)),
        *(Route("breakwater", entry) for entry in routes_of(breakwater.app)),
    ]


class World:
    """A running cloud with nodes and objects to ask for; connections are kept, one a caller and service."""

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
        self._challenge = self.spare.start(self.code).into(Challenge)
        self._proof = self.spare.proof(self._challenge)
        self._wires: dict[tuple[Service, Caller], Wire] = {}

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
        """The connections: the cloud was restarted."""
        self._wires.clear()

    def path(self, route: Route) -> str:
        """The route's path about the victim (or about what may be ended, where it ends something)."""
        path = route.entry.path
        ends = path.endswith(("/revoke", "/release")) and "{node}" in path
        values = {
            "{tenant}": self.tenant,
            "{node}": self.condemned.node if ends else self.victim.node,
            "{code}": self._code_id,
            "{token}": self._token_id,
            "{activation}": self._challenge.activation,
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
        media_type: str = "application/json",
    ) -> Answer:
        """The route's own request, or one with another body. A connection that was ended is made anew."""
        sent = dict(headers or {})
        if caller == "operator":
            sent["authorization"] = f"Bearer {self.token}"
        content = self.body(route) if body is None else body
        answer = self.wire(route.service, caller).ask(route.entry.method, self.path(route), content, sent, media_type)
        if answer.headers.get("connection") == "close":
            self._wires.pop((route.service, caller)).__exit__()
        return answer

    def of_generation(self, **more: object) -> dict[str, object]:
        return {"tenant": self.tenant, "node": self.victim.node, **more}

    def order(self) -> dict[str, object]:
        return self.of_generation(
            request=request_id(), generation=1, csr=request(new_key()), not_after="2034-01-01T00:00:00Z"
        )

    def proof(self) -> object:
        """One proof, which is repeated."""
        return self._proof

    def start(self) -> object:
        return StartActivation(self.code, self.spare.evidence(), "1.0")

    def renewal(self) -> object:
        return RenewDevice(request_id(), request(self.other.node_key))


def _nothing(_: World) -> object:
    return None


def _reason(_: World) -> object:
    return {"reason": "a test"}


def _code(_: World) -> object:
    return {"profile": "p", "expires_at": "2034-01-01T00:00:00Z", "entitlements": ["vision"], "seats": 1}


RECIPES: dict[str, Callable[[World], object]] = {
    "fabric POST /v1/activations": World.start,
    "fabric POST /v1/activations/{activation}/proof": World.proof,
    "fabric POST /v1/node/nonces": _nothing,
    "fabric POST /v1/node/sessions": lambda world: world.other.open_session(request(new_key())),
    "fabric POST /v1/node/confirm": lambda _: Ask("n" * 32),
    "fabric POST /v1/node/statement": lambda _: Ask("n" * 32),
    "fabric GET /v1/node/events": _nothing,
    "fabric POST /v1/tenants": lambda _: {"name": "another"},
    "fabric GET /v1/tenants": _nothing,
    "fabric GET /v1/tenants/{tenant}": _nothing,
    "fabric GET /v1/tenants/{tenant}/trust": _nothing,
    "fabric POST /v1/tenants/{tenant}/trust/ek-roots": lambda _: {"pem": maker().root.pem.decode()},
    "fabric POST /v1/tenants/{tenant}/trust/ek-allowed": lambda _: {"ek_name": "000b" + "ab" * 32},
    "fabric PUT /v1/tenants/{tenant}/trust/tiers": lambda _: {"tiers": ["attested"]},
    "fabric POST /v1/tenants/{tenant}/codes": _code,
    "fabric GET /v1/tenants/{tenant}/codes": _nothing,
    "fabric POST /v1/codes/{code}/revoke": _nothing,
    "fabric GET /v1/nodes": _nothing,
    "fabric GET /v1/nodes/{node}": _nothing,
    "fabric POST /v1/nodes/{node}/suspend": _reason,
    "fabric POST /v1/nodes/{node}/resume": _reason,
    "fabric POST /v1/nodes/{node}/revoke": _reason,
    "fabric POST /v1/nodes/{node}/release": _reason,
    "fabric POST /v1/tokens": lambda _: {"name": "another"},
    "fabric GET /v1/tokens": _nothing,
    "fabric POST /v1/tokens/{token}/revoke": _nothing,
    "fabric GET /v1/audit": _nothing,
    "fabric GET /healthz": _nothing,
    "fabric GET /readyz": _nothing,
    "repository GET /tuf/metadata/{name}": _nothing,
    "repository GET /tuf/targets/{name}": _nothing,
    "repository GET /healthz": _nothing,
    "breakwater POST /v1/generations/open": lambda world: world.of_generation(generation=1),
    "breakwater POST /v1/generations/close": lambda world: world.of_generation(up_to=1),
    "breakwater POST /v1/generations/close-one": lambda world: world.of_generation(generation=9),
    "breakwater POST /v1/certificates/device": World.order,
    "breakwater POST /v1/certificates/session": World.order,
    "breakwater POST /v1/certificates/service": lambda _: {"request": request_id(), "csr": request(new_key())},
    "breakwater POST /v1/node/device-certificate": World.renewal,
    "breakwater GET /v1/certificates/revoked-services": _nothing,
    "breakwater GET /healthz": _nothing,
    "breakwater GET /readyz": _nothing,
}


@contextmanager
def world_of(installation: Cloud, directory: Path) -> Iterator[World]:
    """A cloud of one's own with its world, up until the end of the block."""
    cloud = Cloud(directory).copy_from(installation)
    with ended(cloud):
        cloud.up()
        world = World(cloud, directory)
        try:
            yield world
        finally:
            world.close()
