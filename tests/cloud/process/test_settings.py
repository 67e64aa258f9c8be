"""Settings files and the gates of production, one test a gate."""

from pathlib import Path

import pytest

from cloud.crypto.keyfile import write_secret
from cloud.process.settings import GATES, GateRefused, ServiceSettings, SettingsError, check_gates, load_settings
from cloud.storage import PostgresLocation

GOOD = """
trust_domain = "cascade.test"
key_files = ["ca.key"]

[[listeners]]
port = 8440

[[listeners]]
port = 8442
tls = false
purpose = "tuf"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_secret(tmp_path / "passphrase", b"Xk3v-9dLq-27Rt-bNw0\n")
    write_secret(tmp_path / "ca.key", b"-----BEGIN")
    (tmp_path / "settings.toml").write_text(GOOD)
    return tmp_path


def load(folder: Path, *changes: tuple[str, str]) -> ServiceSettings:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "settings.toml").write_text(text)
    return load_settings(folder / "settings.toml", ServiceSettings)


def test_good_settings_pass_every_gate(folder: Path) -> None:
    settings = load(folder)
    assert settings.mode == "production"
    assert settings.path("ca.key") == folder / "ca.key"
    check_gates(settings)


TOP = 'trust_domain = "cascade.test"\n'
LAST = 'purpose = "tuf"\n'
SERVER = '\n[database]\nengine = "postgresql"\n'


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("sqlite-is-not-shared", (TOP, TOP + "replicas = 2\n")),
        ("plaintext-is-for-signed-files", ('purpose = "tuf"', 'purpose = "api"')),
        ("debug-is-off", (TOP, TOP + "debug = true\n")),
        ("database-password-is-private", (LAST, LAST + SERVER + 'password_file = "absent"\n')),
        ("database-is-not-in-the-clear", (LAST, LAST + SERVER + 'host = "db.example"\n')),
        ("secrets-are-private", ('"ca.key"', '"absent.key"')),
        ("secrets-are-private", (TOP, TOP + 'passphrase_file = "absent"\n')),
    ],
)
def test_a_gate_by_settings(folder: Path, rule: str, change: tuple[str, str]) -> None:
    with pytest.raises(GateRefused, match=rule) as caught:
        check_gates(load(folder, change))
    assert caught.value.rule == rule
    check_gates(load(folder, change, (TOP, TOP + 'mode = "development"\n')))


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


@pytest.mark.parametrize("host", ["/run/postgresql", "localhost", "127.0.0.1", "::1"])
def test_a_database_on_this_machine_needs_no_tls(folder: Path, host: str) -> None:
    check_gates(load(folder, (LAST, LAST + SERVER + f'host = "{host}"\nuser = "cascade"\n')))


@pytest.mark.parametrize("name", ["ca.key", "passphrase"])
def test_a_gate_by_readable_secrets(folder: Path, name: str) -> None:
    (folder / name).chmod(0o640)
    with pytest.raises(GateRefused, match="secrets-are-private") as caught:
        check_gates(load(folder))
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize(
    "passphrase", [b"", b"changeme", b"changeme-changeme-1", b"Password1234567890", b"aaaaaaaaaaaaaaaaaaaa"]
)
def test_a_gate_by_a_default_passphrase(folder: Path, passphrase: bytes) -> None:
    write_secret(folder / "passphrase", passphrase)
    with pytest.raises(GateRefused, match="passphrase-is-real") as caught:
        check_gates(load(folder))
    assert not passphrase or passphrase.decode() not in str(caught.value).replace("passphrase", "")


def test_every_gate_has_a_name_of_its_own_and_is_tested() -> None:
    assert set(GATES) == {
        "sqlite-is-not-shared",
        "database-password-is-private",
        "database-is-not-in-the-clear",
        "plaintext-is-for-signed-files",
        "debug-is-off",
        "secrets-are-private",
        "passphrase-is-real",
    }


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
