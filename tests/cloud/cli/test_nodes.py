"""`cascade node`: the list, one node, and the changes of its standing."""

import json

import pytest

from cloud.cli.errors import EXIT_USAGE
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


def test_show_says_since_when_a_receipt_is_outstanding(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    detail = {"node": SHOWN, "generations": [], "receipt_outstanding_since": AT}
    calls.answer("GET", f"/v1/nodes/{NODE}", detail, detail | {"receipt_outstanding_since": None})
    assert main(["node", "show", NODE]) == 0
    assert f"receipt outstanding since  {AT}" in capsys.readouterr().out
    assert main(["node", "show", NODE]) == 0
    assert "receipt" not in capsys.readouterr().out


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


@pytest.mark.parametrize("action", CHANGES)
def test_a_dry_run_asks_for_one(calls: Calls, action: str) -> None:
    calls.answer("POST", f"/v1/nodes/{NODE}/{action}", SHOWN)
    assert main(["node", action, NODE, "--dry-run", "--json"]) == 0
    assert [call[1] for call in calls.made] == [f"/v1/nodes/{NODE}/{action}?dry_run=true"]


@pytest.mark.parametrize("command", [("show", "a\nb"), ("suspend", f"{NODE}/revoke?"), ("revoke", CODE)])
def test_what_is_no_id_is_not_asked_for(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(["node", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []


GENERATION = {
    "number": 1,
    "state": "confirmed",
    "agent_version": "1",
    "created_at": AT,
    "confirmed_at": AT,
    "certificate_not_after": AT,
    "statement": "lease",
    "seq": 1,
    "issued_at": AT,
    "terminate_at": AT,
    "fingerprint": {},
    "told_at": None,
}


@pytest.mark.parametrize(
    ("reported", "shown"),
    [
        ({}, ["PCRs: no quote recorded"]),
        ({"pcr_values": ["ab", "cd"]}, ["PCRs: as accepted", "PCR 0  ab", "PCR 1  cd"]),
        ({"pcr_values": ["ab"], "pcr_changed": [0, 7]}, ["PCRs: changed since they were accepted: 0, 7"]),
        ({"pcr_fault": "no bank"}, ["PCRs: no values", "the last session had no valid quote: no bank"]),
    ],
)
def test_show_has_the_quotes_of_the_current_generation(
    calls: Calls, capsys: pytest.CaptureFixture[str], reported: dict[str, object], shown: list[str]
) -> None:
    older = GENERATION | {"number": 2, "pcr_fault": "of a generation that is not confirmed"}
    calls.answer("GET", f"/v1/nodes/{NODE}", {"node": SHOWN, "generations": [older, GENERATION | reported]})
    assert main(["node", "show", NODE]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("PCRs:"))
    assert lines[at : at + len(shown)] == shown


DRIFT = {"result": "match", "reason": "85 of 100", "changed": ["disk_serial"], "missing": ["mac"], "changed_at": AT}


@pytest.mark.parametrize(
    ("drift", "shown"),
    [
        (None, ["fingerprint: not compared yet"]),
        (DRIFT, ["fingerprint: compared with the activation", "result         match", "reason         85 of 100"]),
    ],
)
def test_show_has_the_drift_and_the_floor_of_the_node(
    calls: Calls, capsys: pytest.CaptureFixture[str], drift: dict[str, object] | None, shown: list[str]
) -> None:
    node = SHOWN | {"floor_index": 0x01A00001, "floor_value": 7}
    calls.answer("GET", f"/v1/nodes/{NODE}", {"node": node, "generations": [GENERATION | {"drift": drift}]})
    assert main(["node", "show", NODE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["floor", "index", "0x01a00001"] in [line.split() for line in lines]
    at = next(number for number, line in enumerate(lines) if line.startswith("fingerprint:"))
    assert lines[at : at + len(shown)] == shown
    assert (["changed", "disk_serial"] in [line.split() for line in lines]) == (drift is not None)


def test_accept_pcrs_sends_the_values_that_were_read(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    detail = {"node": SHOWN, "generations": [GENERATION | {"pcr_values": ["ab"], "pcr_changed": [0]}]}
    calls.answer("GET", f"/v1/nodes/{NODE}", detail)
    calls.answer("POST", f"/v1/nodes/{NODE}/accept-pcrs", detail)
    assert main(["node", "accept-pcrs", NODE]) == 0
    assert calls.made[-1][2] == schemas.AcceptPcrs(("ab",))
    assert "PCRs:" in capsys.readouterr().out


CASE: dict[str, object] = {
    "node": NODE,
    "tenant": TENANT,
    "cause": "renewal-token",
    "suspected_at": AT,
    "standing": "active",
    "generation": 1,
    "restored": 0,
    "evidence": [
        {
            "id": each,
            "state": state,
            "since": AT,
            "seen_at": AT,
            "address": "192.0.2.7",
            "agent_version": "1.0",
            "fingerprint_hash": "f" * 16,
            "tpm_resets": 3,
            "tpm_restarts": 0,
            "tpm_clock_ms": 1000,
        }
        for each, state in (("0badcafe", "current"), ("12345678", "older"))
    ],
}


def test_clones_are_listed_and_settled(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", "/v1/clones", {"items": [CASE], "next_cursor": ""})
    calls.answer("POST", f"/v1/nodes/{NODE}/settle", CASE)
    assert main(["node", "clones", TENANT]) == 0
    shown = capsys.readouterr().out
    assert f"tenant={TENANT}" in calls.made[0][1]
    assert all(text in shown for text in ("renewal-token", "0badcafe", "12345678", "192.0.2.7"))
    assert main(["node", "clones", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["evidence"][1]["state"] == "older"
    assert main(["node", "settle", NODE, "--keep", "0badcafe", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["node"] == NODE
    calls.answer("GET", f"/v1/nodes/{NODE}/clones", CASE)
    assert main(["node", "clones", NODE]) == 0
    assert "0badcafe" in capsys.readouterr().out
    made = len(calls.made)
    assert main(["node", "settle", NODE, "--keep", "foo"]) == 2
    assert "cannot keep 'foo': the id of an evidence has 8 hex digits" in capsys.readouterr().err
    assert len(calls.made) == made
    calls.answer("GET", "/v1/clones", {"items": [], "next_cursor": ""})
    assert main(["node", "clones"]) == 0
    assert "no clone is suspected" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["clones", "ten_zzz"], ["list", "--tenant", "ten_zzz"]])
def test_a_filter_with_a_wrong_id_is_no_empty_answer(
    calls: Calls, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["node", *words]) == EXIT_USAGE
    assert "cannot use 'ten_zzz' as an id" in capsys.readouterr().err
    assert not calls.made
