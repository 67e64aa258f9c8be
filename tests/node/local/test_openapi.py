"""The document of the socket: made of the table that serves it."""

import json

import pytest

from node.cli.main import main
from node.local.openapi import document, encoded
from node.local.routes import ROUTES


def test_every_route_is_in_the_document() -> None:
    paths = document()["paths"]
    documented = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert documented == {(route.method, route.path) for route in ROUTES}


def test_commands_say_what_they_refuse() -> None:
    paths = document()["paths"]
    assert set(paths["/v1/renew"]["post"]["responses"]) == {"200", "403", "503", "504"}
    assert set(paths["/v1/license"]["get"]["responses"]) == {"200"}
    entitlement = paths["/v1/entitlements/{name}"]["get"]
    assert set(entitlement["responses"]) == {"200", "400", "403"}
    assert set(entitlement["responses"]["403"]["content"]) == {"application/json"}
    assert entitlement["operationId"] == "check_entitlement"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out.encode() == encoded()
    assert set(json.loads(encoded())["paths"]) == {route.path for route in ROUTES}
