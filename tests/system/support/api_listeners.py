"""The listeners of a running cloud for `tests.fuzz.api`, with their API documents and every kind of caller."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

from cloud.breakwater.routes.documents import documents as breakwater_documents
from cloud.fabric.routes.documents import documents as fabric_documents
from protocol.encoding import json_encode
from tests.fuzz.api import Caller, Listener, Real, RealOf
from tests.system.support.routes import RECIPES, Route, World, all_routes
from tests.system.support.wire import DOCUMENTS, PLAINTEXT, PORTS, Identity, Service, root_pem, service_identity


@contextmanager
def listeners_of(world: World, directory: Path) -> Iterator[tuple[Listener, ...]]:
    """Every listener with its callers. The certificates and keys of callers are files in `directory`."""
    routes = {(route.service, route.entry.method, route.entry.path): route for route in all_routes()}
    made = {**fabric_documents(), **breakwater_documents()}
    identities: dict[str, Identity | None] = {
        "stranger": None,
        "node": world.session,
        "service fabric": world.fabric,
        "service breakwater": service_identity(world.cloud, "breakwater"),
    }
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(_session(world, directory / name.replace(" ", "-"), identity))
            for name, identity in identities.items()
        }
        callers = (
            *(Caller(name, session) for name, session in sessions.items()),
            Caller("operator", sessions["stranger"], {"authorization": f"Bearer {world.token}"}),
            Caller("operator of another place", sessions["stranger"], {"authorization": "Bearer cot_wrong"}),
        )
        yield tuple(
            Listener(
                name=DOCUMENTS[service],
                url=f"{'http' if service in PLAINTEXT else 'https'}://127.0.0.1:{world.cloud.port + PORTS[service]}",
                document=json.loads(made[DOCUMENTS[service]].encoded),
                callers=callers[:1] if service in PLAINTEXT else callers,
                real_of=_real_of(world, service, routes),
            )
            for service in PORTS
        )


@contextmanager
def _session(world: World, file: Path, identity: Identity | None) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(root_pem(world.cloud))
        if identity is not None:
            file.touch(mode=0o600)
            file.write_bytes(identity.pem)
            session.cert = str(file)
        yield session


def _real_of(world: World, service: Service, routes: dict[tuple[Service, str, str], Route]) -> RealOf:
    def real_of(method: str, path: str) -> Real:
        route = routes[service, method, path]
        values = re.fullmatch(
            re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(path)), world.path(route).partition("?")[0]
        )
        assert values is not None
        return Real(values.groupdict(), _json(RECIPES[route.name](world)))

    return real_of


def _json(body: object) -> object:
    """The body as Schemathesis generates bodies: JSON values, or bytes."""
    if body is None or isinstance(body, bytes):
        return body
    return json.loads(json_encode(body))
