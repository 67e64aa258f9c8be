"""The production gates: each gate has a test."""

from pathlib import Path

import pytest

from cloud.crypto.keyfile import write_secret
from cloud.process.gates import GATES, GateRefused, check_gates
from tests.cloud.process.files import LAST, SERVER, TOP, load

NATS = '[nats]\nurl = "tls://nats.example:4222"\ncredentials_file = "nats.creds"\n'


def test_good_settings_pass_every_gate(folder: Path) -> None:
    settings = load(folder)
    assert settings.mode == "production"
    assert settings.path("ca.key") == folder / "ca.key"
    check_gates(settings)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("sqlite-is-not-shared", (TOP, TOP + "replicas = 2\n")),
        ("plaintext-is-for-signed-files", ('purpose = "tuf"', 'purpose = "api"')),
        ("plaintext-is-for-signed-files", ('purpose = "tuf"', 'purpose = "metrics"\nhost = "192.0.2.1"')),
        ("debug-is-off", (TOP, TOP + "debug = true\n")),
        ("database-password-is-private", (LAST, LAST + SERVER + 'password_file = "absent"\n')),
        ("database-is-not-in-the-clear", (LAST, LAST + SERVER + 'host = "db.example"\n')),
        ("nats-is-not-in-the-clear", (LAST, LAST + NATS.replace("tls:", "nats:"))),
        ("nats-credentials-are-private", (LAST, LAST + NATS)),
        ("secrets-are-private", ('"ca.key"', '"absent.key"')),
        ("secrets-are-private", (TOP, TOP + 'passphrase_file = "absent"\n')),
    ],
)
def test_a_gate_by_settings(folder: Path, rule: str, change: tuple[str, str]) -> None:
    with pytest.raises(GateRefused, match=rule) as caught:
        check_gates(load(folder, change))
    assert caught.value.rule == rule
    check_gates(load(folder, change, (TOP, TOP + 'mode = "development"\n')))


def test_nats_with_tls_and_private_credentials_is_good(folder: Path) -> None:
    write_secret(folder / "nats.creds", b"secret")
    settings = load(folder, (LAST, LAST + NATS))
    check_gates(settings)
    assert "nats.creds" in settings.secret_files


@pytest.mark.parametrize("host", ["/run/postgresql", "localhost", "127.0.0.1", "::1"])
def test_a_database_on_this_machine_needs_no_tls(folder: Path, host: str) -> None:
    check_gates(load(folder, (LAST, LAST + SERVER + f'host = "{host}"\nuser = "cascade"\n')))


def test_the_metrics_of_this_machine_need_no_tls(folder: Path) -> None:
    check_gates(load(folder, ('purpose = "tuf"', 'purpose = "metrics"')))


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
        "nats-is-not-in-the-clear",
        "nats-credentials-are-private",
        "plaintext-is-for-signed-files",
        "debug-is-off",
        "secrets-are-private",
        "passphrase-is-real",
    }
