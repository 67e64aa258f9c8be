"""`cascade recovery codes`: codes are shown once, or only in a file, and the recovery file."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cloud.cli import secret_files
from cloud.cli.main import main
from cloud.crypto.keyfile import KeyFileError
from protocol.encoding import json_decode
from protocol.messages.activation import ActivationFile
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.recovery.support import CASE, CODES, SECRETS, page, shown_code
from tests.cloud.cli.support import NODE, TENANT, error_of


def issued(count: int = 1, *, reissued: bool = False, **changes: object) -> dict[str, Any]:
    codes = [{"code": shown_code(number, **changes), "secret": SECRETS[number]} for number in range(count)]
    return {"codes": codes, "reissued": reissued}


def issue(*options: str) -> int:
    return main(["recovery", "codes", "issue", *options])


def test_codes_are_printed_once_with_what_they_are_for(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("POST", "/v1/recovery/codes", issued(2))
    assert issue("--node", NODE, "--count", "2", "--expires-in", "7") == 0
    out = capsys.readouterr().out
    assert all(each in out for each in (*SECRETS, *CODES, NODE, "cascadia recover"))
    assert "issued before" not in out
    ((_, _, body),) = calls.made
    assert (body.node, body.case, body.tenant, body.count) == (NODE, None, None, 2)
    assert issue("--tenant", TENANT, "--json") == 0
    assert json.loads(capsys.readouterr().out)["codes"][0]["secret"] == SECRETS[0]
    assert issue("--case", CASE) == 0
    assert [(body.tenant, body.case) for _, _, body in calls.made[1:]] == [(TENANT, None), (None, CASE)]


def test_a_reissued_code_says_from_when_on_it_is_accepted(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer(
        "POST",
        "/v1/recovery/codes",
        issued(reissued=True, state="delayed", usable_from="2026-12-01T09:00:00Z", node=""),
    )
    assert issue("--tenant", TENANT) == 0
    out = capsys.readouterr().out
    assert all(each in out for each in ("2026-12-01T09:00:00Z", "issued before", "any node of the tenant"))


@pytest.mark.parametrize("as_json", [False, True])
def test_codes_in_a_file_are_not_printed(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    calls.answer("POST", "/v1/recovery/codes", issued(2))
    out = tmp_path / "codes.txt"
    assert issue("--node", NODE, "--count", "2", "--out", str(out), *(("--json",) if as_json else ())) == 0
    printed = capsys.readouterr()
    assert not any(secret in printed.out + printed.err for secret in SECRETS)
    assert CODES[0] in printed.out
    assert out.read_text().splitlines() == SECRETS
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert issue("--node", NODE, "--out", str(out)) == 2
    assert len(calls.made) == 1


def test_a_recovery_file_is_an_activation_file_with_the_node(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer("POST", "/v1/recovery/codes", issued())
    assert issue("--case", CASE, "--recovery-file", str(tmp_path / "recovery.json")) == 0
    out = capsys.readouterr().out
    assert SECRETS[0] not in out
    assert "cascadia recover --file recovery.json" in out
    written = json_decode((tmp_path / "recovery.json").read_bytes(), ActivationFile)
    assert (written.format, written.code, written.node) == (1, SECRETS[0], NODE)
    assert written.repository_url == "http://127.0.0.1:1"
    assert stat.S_IMODE((tmp_path / "recovery.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "options",
    [
        ("--node", NODE, "--count", "2"),
        ("--tenant", TENANT),
        ("--node", NODE, "--out", "codes.txt"),
    ],
)
def test_a_recovery_file_has_one_code_of_one_node(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert issue(*options, "--recovery-file", str(tmp_path / "recovery.json"), "--json") == 2
    assert error_of(capsys.readouterr().out)["code"] == "recovery_file_invalid"
    assert calls.made == []


@pytest.mark.parametrize("options", [(), ("--node", NODE, "--tenant", TENANT)])
def test_codes_are_for_one_thing(calls: Calls, options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        issue(*options)
    assert stopped.value.code == 2
    assert calls.made == []


def test_texts_that_could_not_be_written_are_named(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise KeyFileError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(secret_files, "write_secret", full)
    calls.answer("POST", "/v1/recovery/codes", issued())
    assert issue("--node", NODE, "--out", str(tmp_path / "codes"), "--json") == 70
    error = error_of(capsys.readouterr().out)
    assert error["code"] == "file_not_written"
    assert CODES[0] in str(error["next"])


def test_list_and_revoke(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", "/v1/recovery/codes", page(shown_code(), shown_code(1, node="")))
    calls.answer("POST", f"/v1/recovery/codes/{CODES[0]}/revoke", shown_code(state="revoked"))
    assert main(["recovery", "codes", "list", "--tenant", TENANT, "--delayed"]) == 0
    out = capsys.readouterr().out
    assert all(each in out for each in CODES)
    assert f"tenant={TENANT}&state=delayed" in calls.made[0][1]
    assert main(["recovery", "codes", "revoke", CODES[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"


@pytest.mark.parametrize("command", [("list", "--node", TENANT), ("revoke", CASE), ("issue", "--node", CASE)])
def test_another_id_is_refused_before_a_call(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(["recovery", "codes", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []


def test_options_of_the_command_hold_for_its_step(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", "/v1/recovery/codes", page())
    assert main(["recovery", "codes", "--json", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == []
