"""`cascade activation`: the list, one activation, and the decisions."""

import json

import pytest

from cloud.cli.main import main
from cloud.fabric import schemas
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, CODE, TENANT, error_of

ACTIVATION = "act_0" + "1" * 25
SHOWN: dict[str, object] = {
    "id": ACTIVATION,
    "tenant": TENANT,
    "code": CODE,
    "state": "pending",
    "tier": "tpm",
    "node": "",
    "generation": 0,
    "matched": "",
    "ek_name": "000b" + "ab" * 32,
    "ek_issuer": "CN=Maker",
    "components": ["board_serial", "mac"],
    "agent_version": "1.0",
    "address": "192.0.2.7",
    "created_at": AT,
    "asked_at": AT,
    "approve_by": AT,
    "decided_at": None,
    "decided_by": "",
    "reason": "",
    "seat_reserved": False,
}


def test_the_list_shows_waiting_activations_unless_asked_for_others(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer("GET", "/v1/activations", {"items": [SHOWN], "next_cursor": ""})
    assert main(["activation", "list", "--tenant", TENANT, "--code", CODE]) == 0
    assert ACTIVATION in capsys.readouterr().out
    assert main(["activation", "list", "--state", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["components"] == ["board_serial", "mac"]
    asked = [path for _, path, _ in calls.made]
    assert all(each in asked[0] for each in (f"tenant={TENANT}", f"code={CODE}", "state=pending"))
    assert "state=" not in asked[1]


def test_the_evidence_is_shown(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", f"/v1/activations/{ACTIVATION}", SHOWN)
    assert main(["activation", "show", ACTIVATION]) == 0
    out = capsys.readouterr().out
    assert all(each in out for each in ("000b" + "ab" * 32, "CN=Maker", "board_serial,mac", "192.0.2.7", "tpm", "1.0"))


@pytest.mark.parametrize(("state", "label"), [("pending", "approve by"), ("approved", "return by")])
def test_the_date_is_named_for_what_it_ends(
    calls: Calls, capsys: pytest.CaptureFixture[str], state: str, label: str
) -> None:
    calls.answer("GET", f"/v1/activations/{ACTIVATION}", SHOWN | {"state": state})
    assert main(["activation", "show", ACTIVATION]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if " by  " in line and line.startswith(label)]


@pytest.mark.parametrize(("action", "state"), [("approve", "approved"), ("deny", "denied")])
def test_a_decision_sends_its_reason(calls: Calls, capsys: pytest.CaptureFixture[str], action: str, state: str) -> None:
    calls.answer("POST", f"/v1/activations/{ACTIVATION}/{action}", SHOWN | {"state": state})
    assert main(["activation", action, ACTIVATION, "--reason", "seen on site", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == state
    assert calls.made == [("POST", f"/v1/activations/{ACTIVATION}/{action}", schemas.Decide("seen on site"))]


@pytest.mark.parametrize("action", ["show", "approve", "deny"])
def test_another_id_is_refused_before_a_call(calls: Calls, capsys: pytest.CaptureFixture[str], action: str) -> None:
    assert main(["activation", action, CODE, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []
