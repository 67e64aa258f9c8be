"""`cascadia config check`: the settings in force with their sources, and the refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.cli.main import main
from node.config import Config


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(["config", "check", *arguments])
    except SystemExit as ended:
        code = int(str(ended.code))
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cascadia.toml"
    path.write_text("# ours\nheartbeat_seconds = 60\n")
    return path


def test_each_setting_has_its_value_and_source(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADIA_SOCKET", "/run/other.sock")
    code, output, _ = run(capsys, "--config", str(file), "--json")
    document: dict[str, Any] = json.loads(output)
    assert (code, document["format"], list(document["settings"])) == (0, 1, list(Config.__struct_fields__))
    assert document["settings"]["heartbeat_seconds"] == {"value": 60, "source": f"{file}, line 2"}
    assert document["settings"]["socket"] == {"value": "/run/other.sock", "source": "CASCADIA_SOCKET"}
    assert document["settings"]["tpm_owner_auth"] == {"value": None, "source": "built-in value"}
    assert document["settings"]["mode"] == {"value": "production", "source": "built-in value"}
    code, output, _ = run(capsys, "--config", str(file))
    assert code == 0
    assert f"heartbeat_seconds    60  ({file}, line 2)" in output.splitlines()
    assert "tpm_owner_auth       none  (built-in value)" in output.splitlines()


def test_what_the_agent_would_refuse_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("\nsettle_seconds = 0\n")
    code, output, error = run(capsys, "--config", str(file))
    assert (code, output) == (2, "")
    assert f"`settle_seconds` in {file}, line 2: 0 is out of bounds; allowed is" in error
    file.write_text('tpm = "swtpm:port=1"\n')
    code, _, error = run(capsys, "--config", str(file))
    assert (code, "development" in error) == (2, True)
