"""`cascade recovery`: the list with delayed codes, one case in words, and the decisions."""

import json

import msgspec
import pytest

from cloud.cli.main import main
from cloud.cli.recovery.cases import SITUATIONS, human_case, next_step
from cloud.fabric import schemas
from cloud.fabric.bodies.recovery import RecoveryCase
from protocol.messages.recovery import CaseState, Situation
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.recovery.support import CASE, CODES, SHOWN_CASE, page, shown_code
from tests.cloud.cli.support import CODE, NODE, TENANT, error_of

PATH = f"/v1/recovery/cases/{CASE}"
CASE_OF_TESTS = msgspec.convert(SHOWN_CASE, RecoveryCase)


@pytest.fixture
def listed(calls: Calls) -> Calls:
    calls.answer("GET", "/v1/recovery/cases", page(SHOWN_CASE))
    calls.answer("GET", "/v1/recovery/codes", page(shown_code(state="delayed")))
    return calls


def test_the_list_shows_undecided_cases_and_codes_that_were_issued_again(
    listed: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recovery", "list", "--tenant", TENANT, "--node", NODE]) == 0
    out = capsys.readouterr().out
    assert all(each in out for each in (CASE, NODE, "needs_operator", CODES[0], "issued again"))
    cases, codes = (path for _, path, _ in listed.made)
    assert all(each in cases for each in (f"tenant={TENANT}", f"node={NODE}", "state=undecided"))
    assert all(each in codes for each in (f"tenant={TENANT}", f"node={NODE}", "state=delayed"))


def test_the_list_as_json_has_both_parts(listed: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recovery", "list", "--state", "all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found["cases"][0]["id"], found["delayed_codes"][0]["id"]] == [CASE, CODES[0]]
    assert "state=" not in listed.made[0][1]


def test_without_delayed_codes_the_list_says_nothing_about_them(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("/v1/recovery/cases", "/v1/recovery/codes"):
        calls.answer("GET", path, page())
    assert main(["recovery", "list", "--state", "refused"]) == 0
    assert capsys.readouterr().out == "(none)\n"


def test_the_evidence_is_shown_in_words(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", PATH, SHOWN_CASE)
    assert main(["recovery", "show", CASE]) == 0
    out = capsys.readouterr().out
    assert all(
        each in out
        for each in (
            "hardware-replaced: another chip",
            "match (the machine's own report)",
            "board_serial (20), disk_serial (30)",
            "mac (10)",
            "presented, signature valid",
            "3 -> none yet",
            f"cascade recovery approve {CASE}",
        )
    )
    assert main(["recovery", "show", CASE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"]["matched"] == {"disk_serial": 30, "board_serial": 20}


@pytest.mark.parametrize("state", msgspec.json.schema(CaseState)["enum"])
def test_every_state_has_a_next_step(state: CaseState) -> None:
    assert next_step(msgspec.structs.replace(CASE_OF_TESTS, state=state))


def test_the_return_of_the_old_machine_is_named() -> None:
    returned = msgspec.structs.replace(CASE_OF_TESTS, state="consumed", returned_at=CASE_OF_TESTS.opened_at)
    assert "cascade node clones" in next_step(returned)
    assert "old machine returned" in human_case(returned)


def test_every_situation_is_explained() -> None:
    assert set(SITUATIONS) == set(msgspec.json.schema(Situation)["enum"])


def test_a_grace_lease_that_is_not_signed_yet_is_named() -> None:
    assert "promised, not signed yet" in human_case(msgspec.structs.replace(CASE_OF_TESTS, grace=True))


@pytest.mark.parametrize(("action", "state"), [("approve", "approved"), ("deny", "refused")])
def test_a_decision_sends_its_reason(calls: Calls, capsys: pytest.CaptureFixture[str], action: str, state: str) -> None:
    calls.answer("POST", f"{PATH}/{action}", SHOWN_CASE | {"state": state})
    assert main(["recovery", action, CASE, "--reason", "seen on site", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == state
    assert calls.made == [("POST", f"{PATH}/{action}", schemas.Decide("seen on site"))]


def test_a_denial_needs_a_reason(calls: Calls) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["recovery", "deny", CASE])
    assert stopped.value.code == 2
    assert calls.made == []


@pytest.mark.parametrize(
    "command", [("show", CODE), ("approve", CODE), ("list", "--node", TENANT), ("list", "--tenant", NODE)]
)
def test_another_id_is_refused_before_a_call(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(["recovery", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []
