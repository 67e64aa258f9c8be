"""Fabric's API documents: every route is in them, and only an operator may read the served document."""

import json
from typing import Any, cast

import pytest

from cloud.clock import utc_now
from cloud.fabric import schemas
from cloud.fabric.app import make_api, make_repository
from cloud.fabric.parts import SERVICES
from cloud.fabric.routes.documents import documents
from cloud.http.guard import Guard, routes_of
from cloud.mtls.peer import PeerChecks, PeerTrust
from tests.cloud.fabric.asgi import api_of
from tests.cloud.fabric.support import ALICE, Machine, World


@pytest.mark.slow
def test_documents_have_the_routes_of_their_listeners() -> None:
    guard = Guard(trust=lambda: PeerTrust("", (), ()), checks=cast(PeerChecks, None), now=utc_now)
    parts = dict.fromkeys(SERVICES)
    apps = {"fabric": make_api(guard, parts), "fabric-repository": make_repository(guard, parts)}
    made = documents()
    assert set(made) == set(apps)
    for name, app in apps.items():
        paths = json.loads(made[name].encoded)["paths"]
        documented = {(method.upper(), path) for path, item in paths.items() for method in item}
        assert documented == {(route.method, route.path) for route in routes_of(app)}


@pytest.mark.slow
async def test_the_document_is_for_operators(world: World, machine: Machine) -> None:
    api = api_of(world)
    made = await world.parts.operators.tokens.create(ALICE, schemas.CreateToken("of the test"))
    session = await machine.session()

    async def refused() -> set[str]:
        strangers: tuple[dict[str, Any], ...] = (
            {},
            {"token": "cot_wrong"},
            {"certificate": session.certificate_chain[0]},
        )
        return {(await api.ask("GET", "/schema", **stranger)).code for stranger in strangers}

    assert await refused() == {"operator_required"}
    shown = await api.ask("GET", "/schema", token=made.secret)
    assert (shown.status, shown.body) == (200, documents()["fabric"].encoded)
    assert await refused() == {"operator_required"}, "making the document registers the same handlers once more"
