"""`cascade`: what an operator mistypes, or a disk refuses, is told in a sentence with its exit code, never a traceback."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cloud.cli import operate
from cloud.cli.connection import Server
from cloud.cli.main import main
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError
from cloud.fabric import schemas
from protocol.ids import CodeId, TenantId
from protocol.messages.activation import TrustPin

TENANT = "ten_01jd8xk3v5e2r9qz7w4m6n8p0a"
NODE = "node_01jd8xk3v5e2r9qz7w4m6n8p0a"
CODE = "code_01jd8xk3v5e2r9qz7w4m6n8p0a"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were asked for; the server makes a code whatever is asked."""
    asked: list[str] = []

    def call(self: Server, method: str, path: str, kind: Any, body: Any = None) -> Any:
        asked.append(path)
        now = utc_now()
        code = schemas.Code(CodeId(CODE), TenantId(TENANT), "open", "p", (), 1, 0, now, now, None, None, None)
        return schemas.CreatedCode(code, "cac_secret")

    monkeypatch.setattr(Server, "call", call)
    monkeypatch.setenv("CASCADE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CASCADE_TRUST", str(TrustPin(1, "ab" * 32)))
    monkeypatch.setenv("CASCADE_TOKEN_FILE", "/nonexistent")
    return asked


@pytest.mark.parametrize(
    "command",
    [
        ("tenant", "show", ""),
        ("tenant", "show", "../nodes"),
        ("tenant", "trust", "ten_x"),
        ("node", "show", "a\nb"),
        ("node", "suspend", f"{NODE}/revoke?"),
        ("node", "revoke", CODE),
        ("code", "list", f"{TENANT}?"),
        ("code", "revoke", f"../nodes/{NODE}"),
        ("token", "revoke", "tok"),
    ],
)
def test_what_is_no_id_is_not_asked_for(
    calls: list[str], capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main([*command, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "id_invalid"
    assert calls == []


@pytest.mark.parametrize("days", ["1e300", "nan", "1e9"])
def test_days_out_of_the_calendar(calls: list[str], tmp_path: Path, days: str) -> None:
    assert main(["code", "create", TENANT, "--out", str(tmp_path / "file"), "--days", days]) == 2
    assert main(["token", "create", "name", "--out", str(tmp_path / "file"), "--days", days]) == 2
    assert calls == []


def test_a_secret_that_could_not_be_written_is_named(
    calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise KeyFileError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(operate, "write_secret", full)
    assert main(["code", "create", TENANT, "--out", str(tmp_path / "file")]) == 70
    told = capsys.readouterr()
    assert CODE in told.err
    assert "cac_secret" not in told.err + told.out


@pytest.mark.parametrize("host", ["a b", "http://x", "x/y", "m\u00fcnchen", "[::1]", "x..y", "-x", "a" * 254])
def test_a_host_that_no_certificate_can_bear(tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    directory = tmp_path / "cloud"
    assert main(["init", "--dir", str(directory), f"--host={host}", "--bind", "127.0.0.1", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "host_invalid"
    assert list(tmp_path.iterdir()) == []


def test_a_ca_that_cannot_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cloud"
    assert main(["init", "--dir", str(directory)]) == 0
    with sqlite3.connect(directory / "breakwater" / "database.sqlite") as database:
        database.execute("UPDATE authority SET certificate = ? WHERE id = 'nodes-1'", (b"no certificate",))
    assert main(["serve", "breakwater", "--dir", str(directory), "--json"]) == 70
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["code"] == "cannot_start"
