"""`cascade airgap`: requests in JSON and as text, the answer's file, and refusals that name a line."""

import json
from pathlib import Path

import pytest

from cloud.cli.main import main
from protocol.airgap.forms import printed, read_answer, to_file
from protocol.airgap.request import RequestFile, open_request
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, NODE, TENANT, error_of
from tests.protocol.airgap.examples import REQUEST_ID, a_request, an_answer, signed_request

ANSWERS = "/v1/airgap/answers"
REQUEST: RequestFile = signed_request(a_request())
ANSWER = an_answer(open_request(REQUEST))
EXCHANGE: dict[str, object] = {
    "request": REQUEST_ID,
    "kind": "refresh",
    "state": "answered",
    "tenant": TENANT,
    "node": NODE,
    "generation": 2,
    "made_at": AT,
    "answered_at": AT,
    "valid_until": AT,
    "statement": "lease",
    "answered_by": "tok_alice",
}


@pytest.fixture
def answered(calls: Calls) -> Calls:
    calls.answer("POST", ANSWERS, {"answer": to_file(ANSWER).decode(), "exchange": EXCHANGE})
    return calls


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "plant 7.json"
    path.write_bytes(to_file(REQUEST))
    return path


def test_the_answer_is_written_beside_the_request(
    answered: Calls, request_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["airgap", "answer", str(request_file)]) == 0
    path = request_file.with_name("plant 7.answer.json")
    assert read_answer(path.read_bytes()) == ANSWER
    out = capsys.readouterr().out
    assert "cascadia license import plant 7.answer.json" in out
    assert NODE in out
    ((method, where, body),) = answered.made
    assert (method, where, body.request + "\n") == ("POST", ANSWERS, to_file(REQUEST).decode())


def test_text_is_read_and_written(
    answered: Calls, request_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request_file.write_text(printed(REQUEST))
    assert main(["airgap", "answer", str(request_file), "--text"]) == 0
    assert read_answer(capsys.readouterr().out.encode()) == ANSWER
    out = tmp_path / "out.txt"
    assert main(["airgap", "answer", str(request_file), "--text", "--out", str(out), "--valid-days", "3"]) == 0
    assert read_answer(out.read_bytes()) == ANSWER
    assert answered.made[-1][2].valid_days == 3
    assert main(["airgap", "answer", str(request_file), "--text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exchange"]["node"] == NODE
    assert read_answer(request_file.with_name("plant 7.answer.txt").read_bytes()) == ANSWER


def test_a_mistyped_line_is_named(calls: Calls, request_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(REQUEST).splitlines()
    lines[4] = lines[4][:8] + ("0" if lines[4][8] != "0" else "1") + lines[4][9:]
    request_file.write_text("\n".join(lines))
    assert main(["airgap", "answer", str(request_file), "--json"]) == 65
    error = error_of(capsys.readouterr().out)
    assert error["code"] == "airgap_damaged"
    assert "line 4" in str(error["text"])
    assert "Correct the named lines" in str(error["next"])
    assert calls.made == []


def test_an_activation_that_waits_says_what_to_approve(
    calls: Calls, request_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    activation = "act_01jd8xk3v5e2r9qz7w4m6n8p0a"
    calls.answer("POST", ANSWERS, {"answer": "", "activation": activation, "approve_by": AT})
    assert main(["airgap", "answer", str(request_file)]) == 75
    printed_error = capsys.readouterr().err
    assert f"must approve the activation {activation} until 2026-11-22 12:00 UTC" in printed_error
    assert f"cascade activation approve {activation}" in printed_error
    assert not request_file.with_name("plant 7.answer.json").exists()


def test_a_recovery_that_waits_names_its_case(
    calls: Calls, request_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    activation, case = "act_01jd8xk3v5e2r9qz7w4m6n8p0a", "rcv_01jd8xk3v5e2r9qz7w4m6n8p0a"
    waits = {"answer": "", "activation": activation, "approve_by": AT, "recovery": case, "needs": "operator"}
    calls.answer("POST", ANSWERS, waits)
    assert main(["airgap", "answer", str(request_file), "--json"]) == 75
    error = error_of(capsys.readouterr().out)
    assert f"the recovery case {case} waits for a decision" in str(error["text"])
    assert f"cascade recovery show {case}" in str(error["next"])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "airgap_damaged"),
        (b'{"document": "other"}', "airgap_wrong_document"),
        (to_file(ANSWER), "airgap_wrong_document"),
        (to_file(REQUEST)[:-30], "airgap_damaged"),
        (b"{" + b" " * 3_000_000, "airgap_too_large"),
    ],
)
def test_files_that_are_no_request(
    calls: Calls, request_file: Path, content: bytes, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request_file.write_bytes(content)
    assert main(["airgap", "answer", str(request_file), "--json"]) == 65
    assert error_of(capsys.readouterr().out)["code"] == code
    assert calls.made == []


def test_files_that_cannot_be_used(
    answered: Calls, request_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["airgap", "answer", str(tmp_path / "none"), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "file_unusable"
    assert main(["airgap", "answer", str(request_file), "--valid-days", "61", "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "days_invalid"
    assert answered.made == []
    assert main(["airgap", "answer", str(request_file), "--out", str(tmp_path), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "file_unusable"


def test_list(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", "/v1/airgap/exchanges", {"items": [EXCHANGE], "next_cursor": ""})
    assert main(["airgap", "list", "--tenant", TENANT, "--node", NODE, "--state", "answered"]) == 0
    assert REQUEST_ID in capsys.readouterr().out
    path = calls.made[0][1]
    assert f"tenant={TENANT}" in path
    assert f"node={NODE}" in path
    assert "state=answered" in path
    assert main(["airgap", "list", "--node", "x", "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
