"""`cascade code`: the activation file, its secret, and mistyped options."""

import json
import stat
from pathlib import Path

import pytest

from cloud.cli import secret_files
from cloud.cli.main import main
from cloud.crypto.keyfile import KeyFileError
from cloud.fabric import schemas
from protocol.encoding import json_decode
from protocol.messages.activation import ActivationFile
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, CODE, NODE, TENANT, error_of

SECRET = "cac_secret"
SHOWN: dict[str, object] = {
    "id": CODE,
    "tenant": TENANT,
    "state": "open",
    "profile": "p",
    "entitlements": [],
    "seats": 1,
    "seats_taken": 0,
    "expires_at": AT,
    "created_at": AT,
    "revoked_at": None,
    "readmit_node": None,
    "lease": None,
    "entitlement_terms": [{"name": "cameras", "limit": 8}],
}


@pytest.fixture
def codes(calls: Calls) -> Calls:
    calls.answer("POST", f"/v1/tenants/{TENANT}/codes", {"code": SHOWN, "secret": SECRET})
    return calls


def create(out: Path, *options: str) -> int:
    return main(["code", "create", TENANT, "--out", str(out), *options])


def test_the_secret_is_in_the_file_alone(codes: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--lease-seconds",
        "1,2,3,4",
        "--readmit",
        NODE,
        "--entitlement",
        "a",
        "--entitlement",
        "b",
        "--entitlement",
        "cameras:limit=8",
        "--heartbeat-seconds",
        "60",
        "--seats",
        "3",
    )
    assert create(tmp_path / "activation.json", *options) == 0
    printed = capsys.readouterr()
    assert CODE in printed.out
    assert "cascadia activate activation.json" in printed.out
    assert SECRET not in printed.out + printed.err
    written = json_decode((tmp_path / "activation.json").read_bytes(), ActivationFile)
    assert (written.code, written.repository_url) == (SECRET, "http://127.0.0.1:1")
    assert stat.S_IMODE((tmp_path / "activation.json").stat().st_mode) == 0o600
    ((_, _, body),) = codes.made
    assert (body.lease, body.readmit_node) == (schemas.LeaseTerms(1, 2, 3, 4), NODE)
    assert (body.entitlements, body.seats) == (("a", "b"), 3)
    assert body.entitlement_terms == (schemas.EntitlementTerms("cameras", limit=8),)
    assert body.intervals == schemas.LeaseIntervals(heartbeat_seconds=60)
    assert create(tmp_path / "activation.json") == 2
    assert len(codes.made) == 1


def test_list_and_revoke(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("GET", f"/v1/tenants/{TENANT}/codes", {"items": [SHOWN], "next_cursor": ""})
    calls.answer("POST", f"/v1/codes/{CODE}/revoke", SHOWN)
    assert main(["code", "list", TENANT]) == 0
    assert CODE in capsys.readouterr().out
    assert main(["code", "revoke", CODE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == CODE


def test_mistyped_terms_make_no_code(codes: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(tmp_path / "file", "--entitlement", "cameras:limit=many", "--json") == 2
    assert error_of(capsys.readouterr().out)["code"] == "entitlement_invalid"
    assert codes.made == []


def test_a_lease_that_cannot_be_read(codes: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(tmp_path / "file", "--lease-seconds", "1,2", "--json") == 2
    assert error_of(capsys.readouterr().out)["code"] == "lease_invalid"
    assert codes.made == []


@pytest.mark.parametrize("command", [("list", f"{TENANT}?"), ("revoke", f"../nodes/{NODE}")])
def test_what_is_no_id_is_not_asked_for(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main(["code", *command, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "id_invalid"
    assert calls.made == []


@pytest.mark.parametrize("days", ["1e300", "nan", "1e9"])
def test_days_out_of_the_calendar(codes: Calls, tmp_path: Path, days: str) -> None:
    assert create(tmp_path / "file", "--days", days) == 2
    assert codes.made == []


def test_a_secret_that_could_not_be_written_is_named(
    codes: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise KeyFileError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(secret_files, "write_secret", full)
    assert create(tmp_path / "file") == 70
    printed = capsys.readouterr()
    assert CODE in printed.err
    assert SECRET not in printed.err + printed.out
