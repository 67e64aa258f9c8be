"""Settings files: the location of the database, and files that are refused."""

from pathlib import Path

import pytest

from cloud.crypto.keyfile import write_secret
from cloud.process.gates import GateRefused, check_gates
from cloud.process.settings import DatabaseSettings, ServiceSettings, SettingsError, load_settings
from cloud.storage import PostgresLocation
from tests.cloud.process.files import LAST, SERVER, TOP, load


def test_where_the_database_is(folder: Path) -> None:
    assert load(folder).database_location() == folder / "service.sqlite"
    write_secret(folder / "password", b"a password\n")
    extra = 'host = "db.example"\nname = "fabric"\npassword_file = "password"\ntls_ca_file = "/etc/ca.pem"\npool = 3\n'
    settings = load(folder, (LAST, LAST + SERVER + extra))
    check_gates(settings)
    assert settings.database_location() == PostgresLocation(
        host="db.example",
        name="fabric",
        user="cascade",
        password_file=str(folder / "password"),
        tls_ca_file="/etc/ca.pem",
        pool=3,
        needs_fsync=True,
    )
    (folder / "password").chmod(0o644)
    with pytest.raises(GateRefused, match="database-password-is-private"):
        check_gates(settings)


def test_credentials_replace_files(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = (LAST, LAST + SERVER + 'password_file = "password"\n')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "none"))
    assert load(folder, server).path(load(folder).passphrase_file) == folder / "passphrase"
    passed = tmp_path / "passed"
    passed.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(passed))
    for name in ("passphrase", "database-password"):
        write_secret(passed / name, b"of systemd")
    settings = load(folder, server)
    assert settings.path(settings.passphrase_file) == passed / "passphrase"
    assert settings.secret_files == ("passphrase", "password")
    location = settings.database_location()
    assert isinstance(location, PostgresLocation)
    assert location.password_file == str(passed / "database-password")
    assert load(folder).database == DatabaseSettings(), "SQLite has no password"
    named = load(folder, (TOP, TOP + 'passphrase_file = "credential:other"\n'))
    assert named.passphrase_file == "credential:other"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("port = 8440", "port = 84400"), "65535"),
        (("port = 8440", 'port = "8440"'), "Expected `int`"),
        ((TOP, TOP + "debgu = true\n"), "unknown field `debgu`"),
        ((TOP, ""), "missing required field `trust_domain`"),
        ((TOP, TOP + 'mode = "prod"\n'), "Invalid enum value"),
        ((TOP, "trust_domain ="), "settings.toml"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(folder: Path, change: tuple[str, str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        load(folder, change)
    assert str(folder / "settings.toml") in str(caught.value)


def test_missing_and_huge_files(folder: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(folder / "absent.toml", ServiceSettings)
    (folder / "settings.toml").write_text("#" * 70_000)
    with pytest.raises(SettingsError, match="larger than"):
        load_settings(folder / "settings.toml", ServiceSettings)
