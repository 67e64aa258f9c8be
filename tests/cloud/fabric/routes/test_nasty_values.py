"""Nasty values at each place of each request of the API documents: on both engines no answer is a 5xx.

`make api-fuzz` sends the same values to a running cloud, as each kind of caller.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater import app as breakwater_app
from cloud.breakwater.peer_records import PeerRecords as BreakwaterPeerRecords
from cloud.fabric import schemas
from cloud.fabric.app import make_repository
from cloud.http.guard import NODE, OPERATOR, Guard, RouteEntry, routes_of
from cloud.http.metrics import Metrics
from tests.cloud.engines import ENGINES
from tests.cloud.fabric.asgi import Api, api_of
from tests.cloud.fabric.support import ALICE, Machine, World
from tests.documented import described
from tests.fuzz.nasty_values import FEW, bodies, concrete, targets

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Operation:
    """One operation of an API document, its application, and a caller that the route admits."""

    api: Api
    method: str
    path: str
    described: dict[str, Any]
    certificate: bytes | None
    token: str

    async def ask(self, target: str, body: bytes | None) -> int:
        """Send one request. Returns the status."""
        answer = await self.api.ask(self.method, target, body, certificate=self.certificate, token=self.token)
        return answer.status

    def requests(self, ids: dict[str, str]) -> list[tuple[str, bytes | None]]:
        """A valid request, as far as the document has an example, then each request with one nasty value."""
        values = {
            each["name"]: ids.get(each["name"]) or _id_like(each["schema"])
            for each in self.described.get("parameters", ())
            if each["in"] == "path"
        }
        usual = concrete(self.path, values)
        content = self.described.get("requestBody", {}).get("content", {})
        example = content.get("application/json", {}).get("example")
        body = None if not content else json.dumps(example).encode()
        made = [(usual, body), *((target, body) for target in targets(self.path, values, self.described, FEW))]
        return made if example is None else [*made, *((usual, each) for each in bodies(example, FEW))]


def _id_like(schema: dict[str, Any]) -> str:
    """A value that the pattern of a path parameter accepts."""
    prefix = re.match(r"\^([a-z]+_)", schema.get("pattern", ""))
    return f"{prefix[1]}{'0' * 26}" if prefix else "1"


async def operations_of(world: World, home: Path) -> tuple[list[Operation], dict[str, str]]:
    """Every operation of both services, with a caller for each, and ids of existing objects by their parameter."""
    fabric, breakwater = api_of(world), world.breakwater
    machine = Machine(world)
    code = await world.code()
    await machine.join(code.secret)
    token = await world.parts.operators.tokens.create(ALICE, schemas.CreateToken("nasty"))
    node = (await machine.session()).certificate_chain[0]
    # A request of the operators' API may close the generation of the first machine, as an import of closes does.
    other = Machine(world, "another ek")
    await other.join((await world.code()).secret)
    of_breakwater = (await other.session()).certificate_chain[0]
    chain = x509.load_pem_x509_certificates((home / "fabric" / "tls" / "chain.pem").read_bytes())
    service = chain[0].public_bytes(Encoding.DER)
    guard = Guard(
        trust=breakwater.authorities.peer_trust,
        checks=BreakwaterPeerRecords(breakwater.stores.generations, breakwater.stores.issuance),
        now=world.clock,
    )
    services = breakwater.services()
    apis = {
        "fabric": fabric,
        "fabric-repository": Api(make_repository(guard, world.parts.services()), "fabric-repository"),
        "breakwater": Api(breakwater_app.make_api(guard, services, Metrics("nasty")), "breakwater"),
        "breakwater-public": Api(breakwater_app.make_public(guard, services), "breakwater-public"),
    }

    def certificate_for(name: str, route: RouteEntry) -> bytes | None:
        if NODE in route.peers:
            return of_breakwater if name == "breakwater" else node
        return service if any(peer.kind == "service" for peer in route.peers) else None

    found = [
        Operation(
            api,
            route.method,
            route.path,
            described(name)["paths"][route.path][route.method.lower()],
            certificate_for(name, route),
            token.secret if OPERATOR in route.peers else "",
        )
        for name, api in apis.items()
        for route in routes_of(api.app)
    ]
    # The node's own release closes it for the other routes of nodes, and an operator's change closes it for the release.
    found.sort(key=lambda operation: 2 if "/nodes/" in operation.path else operation.path.endswith("/node/release"))
    return found, {"tenant": world.tenant, "node": machine.node, "code": code.code.id}


@pytest.mark.parametrize("databases", ENGINES, indirect=True)
async def test_no_nasty_value_is_answered_with_a_fault(world: World, home: Path) -> None:
    operations, ids = await operations_of(world, home)
    sent = 0
    for operation in operations:
        statuses = set()
        for target, body in operation.requests(ids):
            status = await operation.ask(target, body)
            assert status < 500, f"{operation.method} {target[:200]} {(body or b'')[:300]!r}: {status}"
            statuses.add(status)
            sent += 1
        # An enrolment needs a password. Its body is binary, so it has no place for a nasty value.
        if not operation.path.endswith("/simpleenroll"):
            assert not statuses <= {401, 403}, f"{operation.method} {operation.path} admits no caller of this test"
    assert sent > 500
