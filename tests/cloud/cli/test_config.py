"""`cascade config check` finds each fault that keeps a service from starting, and changes nothing."""

import json
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.keys.signer import Keys, open_keys
from cloud.cli import config
from cloud.cli.main import main
from cloud.crypto.keyfile import read_passphrase
from cloud.process.settings import database_toml
from lab.cloud import Cloud
from lab.postgres import postgres_copy
from lab.softhsm import token_processes
from tests.cloud.pki import authority as authority_of
from tests.system.support.token import move_a_key_to_a_token


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("config") / "cloud"
    assert main(["init", "--dir", str(directory), "--json"]) == 0
    return directory


@pytest.fixture
def installation(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cloud"))


def files_of(directory: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mode, path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(directory.rglob("*"))
    }


Check = Callable[[Path], dict[tuple[str, str], dict[str, str]]]


@pytest.fixture
def failed(capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the check with `--json`. Returns the failed findings by service and check."""

    def check(directory: Path) -> dict[tuple[str, str], dict[str, str]]:
        before = files_of(directory)
        capsys.readouterr()
        code = main(["config", "check", "--dir", str(directory), "--running", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert files_of(directory) == before
        wrong = {(each["service"], each["check"]): each for each in found if each["state"] == "failed"}
        assert code == (65 if wrong else 0)
        assert all(each["cause"] and each["next"].endswith(".") for each in wrong.values())
        return wrong

    return check


def test_a_new_installation_passes(installation: Path, failed: Check, capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(installation) == {}
    assert main(["config", "check", "--dir", str(installation), "--running"]) == 0
    assert "breakwater  key of nodes-1" in capsys.readouterr().out


def test_the_keys_of_all_cas_are_opened_with_one_login(
    installation: Path, failed: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token locks itself after a few wrong PINs, so a check must not try the PIN once for each CA."""
    logins: list[Keys] = []

    def counted(*arguments: Any) -> Keys:
        logins.append(open_keys(*arguments))
        return logins[-1]

    monkeypatch.setattr(config, "open_keys", counted)
    (installation / "breakwater" / "keys" / "services-ca.key.pem").unlink()
    assert {check for _, check in failed(installation) if check.startswith("key of")} == {"key of services-1"}
    assert len(logins) == 1


def settings(service: str, old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / service / "settings.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def without_migration(directory: Path) -> None:
    (database,) = (directory / "fabric").glob("*.sqlite")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM migration WHERE name = (SELECT MAX(name) FROM migration)")
        connection.commit()


def no_database(directory: Path) -> None:
    (database,) = (directory / "breakwater").glob("*.sqlite")
    database.unlink()


KEYS = Path("breakwater/keys")
NODES_KEY = ("breakwater", "key of nodes-1")


def swapped(directory: Path, other: str) -> None:
    """Replace the issuing CA in the chains of both services. Names are right if another key has the same name."""
    for service in ("fabric", "breakwater"):
        path = directory / service / "tls" / "chain.pem"
        leaf, *above = x509.load_pem_x509_certificates(path.read_bytes())
        (replaced,) = x509.load_pem_x509_certificates((directory / other).read_bytes())
        chain = (leaf, replaced, *above[1:])
        path.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))


def ec_certificate(name: str) -> bytes:
    """A CA of this name with another key, in DER."""
    return authority_of(name).certificate.public_bytes(Encoding.DER)


def authority(directory: Path, name: str, der: bytes) -> None:
    """Replace the certificate of an authority."""
    with closing(sqlite3.connect(directory / "breakwater" / "database.sqlite")) as connection:
        changed = connection.execute("UPDATE authority SET certificate = ? WHERE id = ?", (der, name))
        assert changed.rowcount == 1
        connection.commit()


BROKEN: list[tuple[Callable[[Path], object], tuple[str, str]]] = [
    (settings("fabric", "mode =", "no_such_key = 1\nmode ="), ("fabric", "settings")),
    (settings("breakwater", "mode =", "mode ="[:-1]), ("breakwater", "settings")),
    (lambda it: (it / "fabric" / "settings.toml").unlink(), ("fabric", "settings")),
    (settings("fabric", "mode =", "debug = true\nmode ="), ("fabric", "gate debug-is-off")),
    (lambda it: (it / "secrets" / "passphrase").chmod(0o644), ("fabric", "gate secrets-are-private")),
    (lambda it: (it / "secrets" / "passphrase").unlink(), ("breakwater", "passphrase")),
    (lambda it: (it / "fabric" / "tls" / "chain.pem").write_text("no"), ("fabric", "certificate")),
    (lambda it: (it / "breakwater" / "keys" / "nodes-ca.key.pem").unlink(), ("breakwater", "key of nodes-1")),
    (lambda it: shutil.rmtree(it / "fabric" / "keys"), ("fabric", "keys")),
    (lambda it: swapped(it, "breakwater/certs/nodes-ca.pem"), ("fabric", "certificate chain")),
    (lambda it: swapped(it, "breakwater/certs/root.pem"), ("breakwater", "certificate chain")),
    (lambda it: authority(it, "services-1", ec_certificate("root")), ("breakwater", "CA services-1")),
    (lambda it: authority(it, "root-1", b"no certificate"), ("breakwater", "CA root-1")),
    (lambda it: authority(it, "root-1", ec_certificate("root")), ("fabric", "certificate chain")),
    (lambda it: shutil.copy(it / KEYS / "services-ca.key.pem", it / KEYS / "nodes-ca.key.pem"), NODES_KEY),
    (no_database, ("breakwater", "database")),
    (without_migration, ("fabric", "database")),
]


@pytest.mark.parametrize(("breaks", "found"), BROKEN, ids=lambda it: "-".join(it) if isinstance(it, tuple) else "")
def test_each_fault_is_found_with_its_cause(
    installation: Path, failed: Check, breaks: Callable[[Path], object], found: tuple[str, str]
) -> None:
    breaks(installation)
    assert found in failed(installation)


@pytest.mark.slow
def test_an_installation_on_postgresql(installation: Path, failed: Check) -> None:
    locations = {}
    for service in ("fabric", "breakwater"):
        (file,) = (installation / service).glob("*.sqlite")
        locations[service] = postgres_copy(service, file)
        path = installation / service / "settings.toml"
        table = f"{database_toml(locations[service])}\n"
        text, changed = re.subn(r"\[database\]\n(?:\w.*\n)*", table, path.read_text())
        assert changed == 1
        path.write_text(text)
        file.unlink()
    assert failed(installation) == {}
    settings("fabric", locations["fabric"].name, "no_such_database")(installation)
    wrong = failed(installation)
    assert set(wrong) == {("fabric", "database")}
    assert "no_such_database" in wrong["fabric", "database"]["cause"]


@pytest.mark.slow
def test_an_installation_with_a_token(
    installation: Path, tmp_path: Path, failed: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase = read_passphrase(installation / "secrets" / "passphrase")
    hsm = move_a_key_to_a_token(Cloud(tmp_path), tmp_path / "hsm", "a-pin-of-this-test", passphrase)
    for name, value in hsm.environment.items():
        monkeypatch.setenv(name, value)
    assert failed(installation) == {}
    hsm.take_away()
    assert set(failed(installation)) == {NODES_KEY}
    hsm.put_back()
    hsm.pin_file.write_text("another-pin\n")
    assert set(failed(installation)) == {NODES_KEY}
    assert token_processes() == []


def test_a_missing_passphrase_is_the_only_cause(installation: Path, failed: Check) -> None:
    """Keys and certificates are not checked then, because their next steps would mislead."""
    (installation / "secrets" / "passphrase").unlink()
    checks = {check for _, check in failed(installation)}
    assert checks == {"gate secrets-are-private", "gate passphrase-is-real", "passphrase"}


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def test_an_address_in_use_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = free.getsockname()[1]
    assert main(["init", "--dir", str(tmp_path / "cloud"), "--port-base", str(base)]) == 0
    capsys.readouterr()
    with taken(base):
        assert main(["config", "check", "--dir", str(tmp_path / "cloud")]) == 65
    assert f"cannot listen on 127.0.0.1:{base}: Address already in use" in capsys.readouterr().out
