"""`cascade up` and `cascade serve` report why a service cannot start."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cloud.cli.main import main
from cloud.cli.run import SERVICES
from cloud.process.serve import Unit
from cloud.storage import DatabaseUnavailable, StorageError
from cloud.storage.errors import DatabaseBusy, DatabaseTooOld, MigrationFailed
from tests.cloud.cli.support import error_of

pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.mark.slow
def test_an_unusable_ca_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cloud"
    assert main(["init", "--dir", str(directory)]) == 0
    with closing(sqlite3.connect(directory / "breakwater" / "database.sqlite")) as database, database:
        database.execute("UPDATE authority SET certificate = ? WHERE id = 'nodes-1'", (b"no certificate",))
    assert main(["serve", "breakwater", "--dir", str(directory), "--json"]) == 70
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["code"] == "cannot_start"


@pytest.mark.slow
def test_a_newer_schema_is_refused_for_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, at a start and in commands, so that systemd does not start the service again."""
    directory = str(tmp_path / "cloud")
    assert main(["init", "--dir", directory]) == 0
    with closing(sqlite3.connect(tmp_path / "cloud/breakwater/database.sqlite")) as database, database:
        database.execute("INSERT INTO migration (name) VALUES ('m0999_later')")
    before = (tmp_path / "cloud/breakwater/database.sqlite").read_bytes()
    for command in (["up"], ["serve", "breakwater"], ["pki", "check"], ["pki", "status"]):
        capsys.readouterr()
        assert main([*command, "--dir", directory, "--json"]) == 2, command
        refused = error_of(capsys.readouterr().out.splitlines()[-1])
        assert refused["code"] == "schema_refused"
        assert "m0999_later" in str(refused["text"])
    assert (tmp_path / "cloud/breakwater/database.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (DatabaseBusy("cannot migrate the database of fabric (m0001_x)"), 75, "database_unavailable"),
        (DatabaseUnavailable("the server is away"), 75, "database_unavailable"),
        (DatabaseTooOld("made before the first release"), 2, "schema_refused"),
        (MigrationFailed("cannot migrate the database of fabric (m0001_x)"), 70, "cannot_start"),
    ],
)
def test_systemd_learns_from_the_exit_code_whether_another_start_helps(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: StorageError,
    code: int,
    name: str,
) -> None:
    def fail(_: Path) -> Unit:
        raise error

    monkeypatch.setitem(SERVICES, "fabric", fail)
    assert main(["serve", "fabric", "--dir", str(tmp_path), "--json"]) == code
    refused = error_of(capsys.readouterr().out)
    assert (refused["code"], str(error) in str(refused["text"]), bool(refused["next"])) == (name, True, True)


@pytest.mark.parametrize("service", ["fabric", "breakwater"])
def test_settings_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], service: str) -> None:
    assert main(["serve", service, "--dir", str(tmp_path), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "settings_refused"


def test_an_installation_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--dir", str(tmp_path), "--json"]) == 2
    assert error_of(capsys.readouterr().out)["code"] == "settings_refused"
