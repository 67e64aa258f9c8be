"""`cascade node`: the list, one node, and the changes of its standing."""

import json

import pytest

from cloud.cli.main import main
from cloud.cli.nodes import CHANGES
from cloud.fabric import schemas
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, CODE, NODE, TENANT, error_of

SHOWN: dict[str, object] = {
    "id": NODE,
    "tenant": TENANT,
    "standing": "active",
    "standing_reason": "",
    "standing_at": AT,
    "tier": "attested",
    "profile": "p",
    "entitlements": [],
    "generation": 1,
    "last_generation": 1,
    "closing": False,
    "seat_held": True,
    "code": CODE,
    "created_at": AT,
    "confirmed_at": AT,
    "lease_until": None,
}


def test_list_and_show(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", "/v1/nodes", {"items": [SHOWN], "next_cursor": ""})
    calls.answer("GET", f"/v1/nodes/{NODE}", {"node": SHOWN, "generations": []})
    assert main(["node", "list", "--tenant", TENANT]) == 0
    assert NODE in capsys.readouterr().out
    assert f"tenant={TENANT}" in calls.made[0][1]
    assert main(["node", "show", NODE]) == 0
    assert "(none)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reported", "shown"), [({"development": True}, "yes"), ({"development": False}, "no"), ({}, "no")]
)
def test_list_and_show_say_whether_a_node_runs_in_development_mode(
    calls: Calls, capsys: pytest.CaptureFixture[str], reported: dict[str, object], shown: str
) -> None:
    node = SHOWN | reported
    calls.answer("GET", "/v1/nodes", {"items": [node], "next_cursor": ""})
    calls.answer("GET", f"/v1/nodes/{NODE}", {"node": node, "generations": []})
    assert main(["node", "list"]) == 0
    headings, row = capsys.readouterr().out.splitlines()
    assert (headings.split()[-2], row.split()[-2]) == ("DEVELOPMENT", shown)
    assert main(["node", "show", NODE]) == 0
    assert ["development", shown] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["node", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["development"] is (shown == "yes")
    assert main(["node", "show", NODE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["node"]["development"] is (shown == "yes")


def test_list_and_show_say_that_a_superseded_generation_asks(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    notice = "the same chip asks with a superseded generation: possibly a clone"
    node = SHOWN | {"superseded_asked_at": AT, "superseded_asked_generation": 1, "notice": notice}
    calls.answer("GET", "/v1/nodes", {"items": [node], "next_cursor": ""})
    calls.answer("GET", f"/v1/nodes/{NODE}", {"node": node, "generations": []})
    assert main(["node", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(notice)
    assert main(["node", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)[0]
    assert (listed["superseded_asked_at"], listed["superseded_asked_generation"], listed["notice"]) == (AT, 1, notice)
    assert main(["node", "show", NODE]) == 0
    shown = capsys.readouterr().out
    assert notice in shown
    assert ["superseded", "asked", "generation", "1"] in [line.split() for line in shown.splitlines()]


@pytest.mark.parametrize("action", CHANGES)
def test_a_change_is_the_route_of_its_name(calls: Calls, capsys: pytest.CaptureFixture[str], action: str) -> None:
    calls.answer("POST", f"/v1/nodes/{NODE}/{action}", SHOWN)
    assert main(["node", action, NODE, "--reason", "why", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == NODE
    assert calls.made[0][2] == schemas.ChangeStanding(reason="why")


@pytest.mark.parametrize("command", [("show", "a\nb"), ("suspend", f"{NODE}/revoke?"), ("revoke", CODE)])
def test_what_is_no_id_is_not_asked_for(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(["node", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []
