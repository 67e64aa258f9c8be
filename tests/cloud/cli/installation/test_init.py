"""`cascade init` refuses invalid options, and a refusal leaves nothing behind."""

import json
import stat
from pathlib import Path

import pytest

from cloud.cli.main import main
from tests.cloud.cli.support import error_of


@pytest.mark.parametrize("host", ["a b", "http://x", "x/y", "m\u00fcnchen", "[::1]", "x..y", "-x", "a" * 254])
def test_a_host_that_no_certificate_can_bear(tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    directory = tmp_path / "cloud"
    assert main(["init", "--dir", str(directory), f"--host={host}", "--bind", "127.0.0.1", "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "host_invalid"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--port-base", "65535"), "port_invalid"),
        (("--host", "name.example"), "bind_missing"),
        (("--trust-domain", "A B"), "trust_domain_invalid"),
        (("--fabric-database", "fabric.sqlite"), "database_invalid"),
        (("--fabric-database", "postgresql://u@db.example/n"), "database_refused"),
        (
            ("--breakwater-database", "postgresql://u@h/n", "--fabric-database", "postgresql://u@h/n"),
            "database_refused",
        ),
        (("--database-password-file", "password"), "database_missing"),
    ],
)
def test_options_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: str
) -> None:
    assert main(["init", "--dir", str(tmp_path / "cloud"), *options, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == code
    assert list(tmp_path.iterdir()) == []


def test_one_database_for_two_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = "postgresql://u@/n?host=/run/postgresql"
    both = ("--breakwater-database", address, "--fabric-database", address)
    assert main(["init", "--dir", str(tmp_path / "cloud"), *both, "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "database_shared"


@pytest.mark.slow
def test_an_installation_is_private_and_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cloud"
    assert main(["init", "--dir", str(directory), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["directory"] == str(directory)
    environment = Path(made["environment"]).read_text()
    assert f"CASCADE_TRUST={made['trust_pin']}" in environment
    for name in ("secrets/passphrase", "operator/token", "operator/env"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["cloud"]
    assert main(["init", "--dir", str(directory), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "directory_in_use"
