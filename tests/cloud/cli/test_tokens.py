"""`cascade token`: the token's file, and mistyped options."""

from pathlib import Path

import pytest

from cloud.cli.main import main
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, TOKEN, error_of

SHOWN: dict[str, object] = {"id": TOKEN, "name": "alice", "created_at": AT, "expires_at": None, "revoked_at": None}


def test_create_list_and_revoke(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("POST", "/v1/tokens", {"token": SHOWN, "secret": "cot_secret"})
    calls.answer("GET", "/v1/tokens", {"items": [SHOWN], "next_cursor": ""})
    calls.answer("POST", f"/v1/tokens/{TOKEN}/revoke", SHOWN)
    assert main(["token", "create", "alice", "--out", str(tmp_path / "token"), "--days", "2"]) == 0
    assert (tmp_path / "token").read_text() == "cot_secret\n"
    assert calls.made[0][2].expires_at is not None
    assert main(["token", "list"]) == 0
    assert main(["token", "revoke", TOKEN]) == 0
    printed = capsys.readouterr().out
    assert printed.count(TOKEN) == 3
    assert "cot_secret" not in printed
    assert main(["token", "create", "alice", "--out", str(tmp_path / "token")]) == 2


@pytest.mark.parametrize("days", ["1e300", "nan", "1e9"])
def test_days_out_of_the_calendar(calls: Calls, tmp_path: Path, days: str) -> None:
    assert main(["token", "create", "name", "--out", str(tmp_path / "file"), "--days", days]) == 2
    assert calls.made == []


def test_what_is_no_id_is_not_asked_for(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "revoke", "tok", "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []
