"""Breakwater's API documents: every route is in them, and no listener serves them."""

import json
from typing import cast

import pytest

from cloud.breakwater.app import make_api, make_public
from cloud.breakwater.parts import SERVICES
from cloud.breakwater.routes.documents import documents
from cloud.clock import utc_now
from cloud.http.guard import Guard, routes_of
from cloud.http.metrics import Metrics
from cloud.mtls.peer import PeerChecks, PeerTrust


@pytest.mark.slow
def test_documents_have_the_routes_of_their_listeners() -> None:
    guard = Guard(trust=lambda: PeerTrust("", (), ()), checks=cast(PeerChecks, None), now=utc_now)
    parts = dict.fromkeys(SERVICES)
    apps = {
        "breakwater": make_api(guard, parts, Metrics("breakwater")),
        "breakwater-public": make_public(guard, parts),
    }
    made = documents()
    assert set(made) == set(apps)
    for name, app in apps.items():
        paths = json.loads(made[name].encoded)["paths"]
        documented = {(method.upper(), path) for path, item in paths.items() for method in item}
        assert documented == {(route.method, route.path) for route in routes_of(app)}
        assert "/schema" not in paths
